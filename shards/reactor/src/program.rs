//! Programs that say which socket of a group gets a connection: classic BPF, as data.
//!
//! The kernel runs one for each first packet of a connection, before anybody here knows of it (socket(7),
//! `SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5). A backend without a kernel runs the same one with [`Program::run`].

use std::sync::Arc;

/// One instruction: `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub if_true: u8,
    /// Instructions to skip where it does not.
    pub if_false: u8,
    /// The constant, the place or the distance.
    pub operand: u32,
}

/// The codes that steering needs: linux/bpf_common.h, combined as linux/filter.h says. `A` is the accumulator, `X` the
/// index register, `M` the 16 words of memory.
#[expect(missing_docs, reason = "each is its own formula")]
pub mod code {
    /// `A = packet[k..k+4]`, big-endian.
    pub const LOAD_WORD: u16 = 0x20;
    /// `A = packet[k..k+2]`.
    pub const LOAD_HALF: u16 = 0x28;
    /// `A = packet[k]`.
    pub const LOAD_BYTE: u16 = 0x30;
    /// `A = packet[X+k..X+k+2]`.
    pub const LOAD_HALF_AT_INDEX: u16 = 0x48;
    /// `A = packet[X+k]`.
    pub const LOAD_BYTE_AT_INDEX: u16 = 0x50;
    /// `A = k`.
    pub const LOAD_CONSTANT: u16 = 0x00;
    /// `A = M[k]`.
    pub const LOAD_MEMORY: u16 = 0x60;
    /// `X = 4 * (packet[k] & 15)`: the length of an IPv4 header.
    pub const INDEX_HEADER_LENGTH: u16 = 0xb1;
    /// `X = k`.
    pub const INDEX_CONSTANT: u16 = 0x01;
    /// `X = M[k]`.
    pub const INDEX_MEMORY: u16 = 0x61;
    /// `M[k] = A`.
    pub const STORE: u16 = 0x02;
    /// `M[k] = X`.
    pub const STORE_INDEX: u16 = 0x03;
    pub const ADD: u16 = 0x04;
    pub const ADD_INDEX: u16 = 0x0c;
    pub const MULTIPLY: u16 = 0x24;
    pub const SHIFT_LEFT: u16 = 0x64;
    pub const SHIFT_RIGHT: u16 = 0x74;
    pub const XOR: u16 = 0xa4;
    pub const XOR_INDEX: u16 = 0xac;
    /// Skips `k` instructions.
    pub const JUMP: u16 = 0x05;
    /// `A == k`?
    pub const IF_EQUAL: u16 = 0x15;
    /// `A >= k`?
    pub const IF_AT_LEAST: u16 = 0x35;
    /// Answers `k`.
    pub const ANSWER: u16 = 0x06;
    /// `X = A`.
    pub const TO_INDEX: u16 = 0x07;
}

/// Loads from here on are relative to the network header (`SKF_NET_OFF`).
pub const NETWORK_HEADER: u32 = -0x10_0000_i32 as u32;
/// A load of a word from here gives the number of the CPU that the packet is handled on (`SKF_AD_OFF + SKF_AD_CPU`).
pub const THIS_CPU: u32 = (-0x1000_i32 + 36) as u32;
/// The kernel takes no longer ones (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;
/// The words of memory (`BPF_MEMWORDS`).
const MEMORY: usize = 16;

/// A program for [`Backend::steer`](crate::Backend::steer). Clones share the instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Arc<[Instruction]>,
}

/// A packet that opens a connection, as a program sees it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// From the network header (IPv4 or IPv6) on.
    pub bytes: &'a [u8],
    /// The number of the CPU that handles it.
    pub cpu: u32,
}

impl Program {
    /// These instructions. Nothing checks them before a backend takes them.
    pub fn new(instructions: Vec<Instruction>) -> Program {
        Program { instructions: instructions.into() }
    }

    /// What it consists of.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// What the kernel would answer for this packet: the number of a socket in its group, in the order in which they
    /// began to listen; a number beyond the last one leaves the choice to the kernel. 0 where a load misses the packet.
    /// `None`: the kernel would refuse the program, or it does what is not among the [codes](code).
    ///
    /// It ends: jumps lead forwards only.
    pub fn run(&self, packet: Packet<'_>) -> Option<u32> {
        let mut machine = Machine { packet, accumulator: 0, index: 0, memory: [0; MEMORY] };
        let mut at = 0_usize;
        loop {
            let instruction = *self.instructions.get(at)?;
            at += 1;
            at += match instruction.code {
                code::ANSWER => return Some(instruction.operand),
                code::JUMP => instruction.operand as usize,
                code::IF_EQUAL => instruction.skip(machine.accumulator == instruction.operand),
                code::IF_AT_LEAST => instruction.skip(machine.accumulator >= instruction.operand),
                _ => match machine.step(instruction)? {
                    Step::Done => 0,
                    Step::Outside => return Some(0),
                },
            };
        }
    }
}

impl Instruction {
    fn skip(self, holds: bool) -> usize {
        usize::from(if holds { self.if_true } else { self.if_false })
    }
}

struct Machine<'a> {
    packet: Packet<'a>,
    accumulator: u32,
    index: u32,
    memory: [u32; MEMORY],
}

enum Step {
    Done,
    /// A load missed the packet: the kernel ends the program.
    Outside,
}

impl Machine<'_> {
    /// `None`: no such instruction, or no such word of memory.
    fn step(&mut self, Instruction { code, operand, .. }: Instruction) -> Option<Step> {
        let loaded = match code {
            code::LOAD_WORD if operand == THIS_CPU => Some(self.packet.cpu),
            code::LOAD_WORD => self.load(operand, 4),
            code::LOAD_HALF => self.load(operand, 2),
            code::LOAD_BYTE => self.load(operand, 1),
            code::LOAD_HALF_AT_INDEX => self.load(operand.wrapping_add(self.index), 2),
            code::LOAD_BYTE_AT_INDEX => self.load(operand.wrapping_add(self.index), 1),
            code::INDEX_HEADER_LENGTH => {
                let Some(first) = self.load(operand, 1) else { return Some(Step::Outside) };
                self.index = 4 * (first & 15);
                return Some(Step::Done);
            }
            _ => return self.compute(code, operand).map(|()| Step::Done),
        };
        let Some(loaded) = loaded else { return Some(Step::Outside) };
        self.accumulator = loaded;
        Some(Step::Done)
    }

    fn compute(&mut self, code: u16, operand: u32) -> Option<()> {
        let Machine { accumulator, index, memory, .. } = self;
        let place = operand as usize;
        match code {
            code::LOAD_CONSTANT => *accumulator = operand,
            code::LOAD_MEMORY => *accumulator = *memory.get(place)?,
            code::INDEX_CONSTANT => *index = operand,
            code::INDEX_MEMORY => *index = *memory.get(place)?,
            code::STORE => *memory.get_mut(place)? = *accumulator,
            code::STORE_INDEX => *memory.get_mut(place)? = *index,
            code::ADD => *accumulator = accumulator.wrapping_add(operand),
            code::ADD_INDEX => *accumulator = accumulator.wrapping_add(*index),
            code::MULTIPLY => *accumulator = accumulator.wrapping_mul(operand),
            code::SHIFT_LEFT => *accumulator = accumulator.checked_shl(operand)?,
            code::SHIFT_RIGHT => *accumulator = accumulator.checked_shr(operand)?,
            code::XOR => *accumulator ^= operand,
            code::XOR_INDEX => *accumulator ^= *index,
            code::TO_INDEX => *index = *accumulator,
            _ => return None,
        }
        Some(())
    }

    /// So many bytes of the packet as a number, big-endian.
    fn load(&self, at: u32, count: usize) -> Option<u32> {
        let from = at.checked_sub(NETWORK_HEADER)? as usize;
        let bytes = self.packet.bytes.get(from..from.checked_add(count)?)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(instructions: &[(u16, u8, u8, u32)], bytes: &[u8]) -> Option<u32> {
        let build = |&(code, if_true, if_false, operand)| Instruction { code, if_true, if_false, operand };
        Program::new(instructions.iter().map(build).collect()).run(Packet { bytes, cpu: 5 })
    }

    #[test]
    fn loads_jumps_and_answers_are_as_the_kernel_has_them() {
        let word = [(code::LOAD_WORD, 0, 0, NETWORK_HEADER + 1), (code::IF_EQUAL, 0, 1, 0x0203_0405)];
        let answers = [(code::ANSWER, 0, 0, 7), (code::ANSWER, 0, 0, 8)];
        let whole = [&word[..], &answers[..]].concat();
        assert_eq!(run(&whole, &[1, 2, 3, 4, 5]), Some(7));
        assert_eq!(run(&whole, &[1, 2, 3, 4, 6]), Some(8));
        assert_eq!(run(&whole, &[1, 2, 3, 4]), Some(0), "a load beyond the packet");
        let cpu = [(code::LOAD_WORD, 0, 0, THIS_CPU), (code::IF_AT_LEAST, 0, 1, 5)];
        assert_eq!(run(&[&cpu[..], &answers[..]].concat(), &[]), Some(7));
    }

    #[test]
    fn what_the_kernel_refuses_has_no_answer() {
        assert_eq!(run(&[], &[]), None, "no answer at the end");
        assert_eq!(run(&[(code::JUMP, 0, 0, 9)], &[]), None, "a jump beyond the end");
        assert_eq!(run(&[(code::STORE, 0, 0, 16), (code::ANSWER, 0, 0, 0)], &[]), None, "no such word");
        assert_eq!(run(&[(code::SHIFT_LEFT, 0, 0, 32), (code::ANSWER, 0, 0, 0)], &[]), None);
        assert_eq!(run(&[(0xffff, 0, 0, 0)], &[]), None, "no such code");
    }
}
