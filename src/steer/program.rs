//! The hash as a program for the kernel: the same words mixed in the same way, then the same step to a shard.
//!
//! Its loads are relative to the network header, so that it sees addresses whatever the kernel has pulled so far. Of IPv6 it
//! walks over up to [`EXTENSIONS`] extension headers (RFC 8200 section 4); what it does not understand it leaves to the
//! kernel's own choice, and the shard that accepts it hands it over.

use waterwheel_reactor::program::{INSTRUCTIONS_MAX, Instruction, NETWORK_HEADER, Program, THIS_CPU, code};

use super::Mode;
use super::hash::{GOLDEN, GOLDEN_ODD, MIX, limit};

/// Headers between that of IPv6 and that of TCP or UDP.
const EXTENSIONS: usize = 3;
/// No socket has this number: the kernel chooses as without a program.
const KERNELS_CHOICE: u32 = u32::MAX;

/// Words of the program's memory.
const STATE: u32 = 0;
const OFFSET: u32 = 1;
const NEXT: u32 = 2;

/// Protocol numbers (IANA): those that end the walk, and those that are walked over.
const TCP: u32 = 6;
const UDP: u32 = 17;
const WALKED_OVER: [u32; 3] = [0, 60, 43];

/// The program that places connections as [`owner`](super::owner) does, of so many shards; in mode `cpu` on the shard that is
/// pinned to the CPU where the packet is handled, `cpus` being the shards' in their order, and as `flow` does for other CPUs.
///
/// `None` in a mode in which the kernel is told nothing, with a single shard, and with more shards than a program may be long
/// for: some 440, or 227 where `net.core.optmem_max` is the 20 480 bytes of kernels before 6.7.
pub fn program(mode: Mode, seed: u32, shards: usize, cpus: &[Option<usize>]) -> Option<Program> {
    if shards < 2 {
        return None;
    }
    let mut built = Assembler::default();
    match mode {
        Mode::Flow | Mode::Source => {}
        Mode::Cpu => built.by_cpu(cpus),
        Mode::Kernel | Mode::Least | Mode::Key => return None,
    }
    let with_port = mode != Mode::Source;
    built.op(code::LOAD_CONSTANT, seed);
    built.op(code::STORE, STATE);
    built.op(code::LOAD_BYTE, NETWORK_HEADER);
    built.op(code::SHIFT_RIGHT, 4);
    built.go_if_equal(4, Label::Four);
    built.go_if_equal(6, Label::Six);
    built.op(code::ANSWER, KERNELS_CHOICE);
    built.place(Label::Four);
    built.four(with_port);
    built.place(Label::Six);
    built.six(with_port);
    built.place(Label::Finish);
    built.finish();
    built.jump(shards);
    let instructions = built.linked();
    (instructions.len() <= INSTRUCTIONS_MAX).then(|| Program::new(instructions))
}

/// Places in the program that are jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Four,
    Six,
    /// Over an extension header, the how manieth.
    Over(usize),
    Port,
    Finish,
}

#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    /// Jumps whose distance is not known yet.
    open: Vec<(usize, Label)>,
    places: Vec<(Label, usize)>,
}

impl Assembler {
    fn op(&mut self, code: u16, operand: u32) {
        self.instructions.push(Instruction { code, if_true: 0, if_false: 0, operand });
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.instructions.len()));
    }

    fn go(&mut self, label: Label) {
        self.open.push((self.instructions.len(), label));
        self.op(code::JUMP, 0);
    }

    /// Any distance: a comparison itself reaches 255 instructions.
    fn go_if_equal(&mut self, operand: u32, label: Label) {
        self.instructions.push(Instruction { code: code::IF_EQUAL, if_true: 0, if_false: 1, operand });
        self.go(label);
    }

    fn linked(mut self) -> Vec<Instruction> {
        for (at, label) in self.open {
            // Each label is placed behind its jumps: the distance is what lies between.
            if let Some((_, place)) = self.places.iter().find(|(placed, _)| *placed == label) {
                self.instructions[at].operand = (place - at - 1) as u32;
            }
        }
        self.instructions
    }

    /// Takes the accumulator into the hash.
    fn absorb(&mut self) {
        self.op(code::INDEX_MEMORY, STATE);
        self.op(code::XOR_INDEX, 0);
        self.op(code::MULTIPLY, GOLDEN_ODD);
        self.shift_and_xor(15);
        self.op(code::STORE, STATE);
    }

    fn shift_and_xor(&mut self, bits: u32) {
        self.op(code::TO_INDEX, 0);
        self.op(code::SHIFT_RIGHT, bits);
        self.op(code::XOR_INDEX, 0);
    }

    /// The shard on the CPU that handles the packet; falls through where there is none.
    fn by_cpu(&mut self, cpus: &[Option<usize>]) {
        self.op(code::LOAD_WORD, THIS_CPU);
        for (shard, cpu) in cpus.iter().enumerate() {
            let Some(cpu) = cpu else { continue };
            let (operand, answer) = (*cpu as u32, shard as u32);
            self.instructions.push(Instruction { code: code::IF_EQUAL, if_true: 0, if_false: 1, operand });
            self.op(code::ANSWER, answer);
        }
    }

    /// The words of an IPv4 packet (RFC 791 section 3.1): the source address, and the port behind a header of any length.
    fn four(&mut self, with_port: bool) {
        self.op(code::LOAD_WORD, NETWORK_HEADER + 12);
        self.absorb();
        if with_port {
            self.op(code::INDEX_HEADER_LENGTH, NETWORK_HEADER);
            self.op(code::LOAD_HALF_AT_INDEX, NETWORK_HEADER);
            self.absorb();
        }
        self.go(Label::Finish);
    }

    /// Those of an IPv6 packet (RFC 8200 section 3).
    fn six(&mut self, with_port: bool) {
        for word in 0..4 {
            self.op(code::LOAD_WORD, NETWORK_HEADER + 8 + 4 * word);
            self.absorb();
        }
        if !with_port {
            return;
        }
        self.op(code::INDEX_CONSTANT, 40);
        self.op(code::STORE_INDEX, OFFSET);
        self.op(code::LOAD_BYTE, NETWORK_HEADER + 6);
        for extension in 0..=EXTENSIONS {
            self.go_if_equal(TCP, Label::Port);
            self.go_if_equal(UDP, Label::Port);
            if extension == EXTENSIONS {
                break;
            }
            for header in WALKED_OVER {
                self.go_if_equal(header, Label::Over(extension));
            }
            self.op(code::ANSWER, KERNELS_CHOICE);
            self.place(Label::Over(extension));
            self.over();
        }
        self.op(code::ANSWER, KERNELS_CHOICE);
        self.place(Label::Port);
        self.op(code::INDEX_MEMORY, OFFSET);
        self.op(code::LOAD_HALF_AT_INDEX, NETWORK_HEADER);
        self.absorb();
    }

    /// Over an extension header, whose second byte is its length in units of 8 bytes, the first not counted.
    fn over(&mut self) {
        self.op(code::INDEX_MEMORY, OFFSET);
        self.op(code::LOAD_BYTE_AT_INDEX, NETWORK_HEADER);
        self.op(code::STORE, NEXT);
        self.op(code::LOAD_BYTE_AT_INDEX, NETWORK_HEADER + 1);
        self.op(code::ADD, 1);
        self.op(code::SHIFT_LEFT, 3);
        self.op(code::ADD_INDEX, 0);
        self.op(code::STORE, OFFSET);
        self.op(code::LOAD_MEMORY, NEXT);
    }

    fn finish(&mut self) {
        self.op(code::LOAD_MEMORY, STATE);
        self.op(code::MULTIPLY, MIX[0]);
        self.shift_and_xor(13);
        self.op(code::MULTIPLY, MIX[1]);
        self.shift_and_xor(16);
        self.op(code::STORE, STATE);
    }

    /// From the hash to a shard: nine instructions for each.
    fn jump(&mut self, shards: usize) {
        for shard in (1..shards as u32).rev() {
            self.op(code::LOAD_MEMORY, STATE);
            self.op(code::XOR, shard.wrapping_mul(GOLDEN));
            self.op(code::MULTIPLY, MIX[0]);
            self.shift_and_xor(13);
            self.op(code::MULTIPLY, MIX[1]);
            let operand = limit(shard);
            self.instructions.push(Instruction { code: code::IF_AT_LEAST, if_true: 1, if_false: 0, operand });
            self.op(code::ANSWER, shard);
        }
        self.op(code::ANSWER, 0);
    }
}

#[cfg(test)]
mod tests;
