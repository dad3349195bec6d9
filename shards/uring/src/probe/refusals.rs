//! Kernels that know less, or have something wrong, played by the one that there is: it refuses what a ring
//! was told to do without (`IORING_REGISTER_RESTRICTIONS`, Linux 5.10), flags that contradict each other as
//! it would unknown ones, and entries with a flag that nobody knows as an older one would those of newer
//! kernels.

use io_uring::register::Restriction;

use super::*;

/// `IOSQE_` flags end below it.
const UNKNOWN_FLAG: u8 = 1 << 7;

/// `enum io_uring_register_op`.
const REGISTER_RING_FDS: u8 = 20;
const UNREGISTER_RING_FDS: u8 = 21;
const REGISTER_PBUF_RING: u8 = 22;
const UNREGISTER_PBUF_RING: u8 = 23;

/// All that a probe does.
const OPERATIONS: [u8; 6] = [
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::Connect::CODE,
    opcode::MsgRingData::CODE,
];
const REGISTERS: [u8; 4] = [REGISTER_RING_FDS, UNREGISTER_RING_FDS, REGISTER_PBUF_RING, UNREGISTER_PBUF_RING];
const FLAGS: Flags = Flags::BUFFER_SELECT.union(Flags::SKIP_SUCCESS);

/// What its rings answer with `EACCES`.
#[derive(Clone, Copy, Debug)]
enum Refusing {
    Nothing,
    Operation(u8),
    Flag(Flags),
    Registering(u8),
}

impl Kernel for Refusing {
    fn make(&self, setup: Setup) -> io::Result<IoUring> {
        let ring = setup.build(setup.builder().setup_r_disabled())?;
        let operations =
            OPERATIONS.into_iter().filter(|code| !matches!(self, Refusing::Operation(no) if no == code));
        let registers =
            REGISTERS.into_iter().filter(|code| !matches!(self, Refusing::Registering(no) if no == code));
        let flags = if let Refusing::Flag(no) = self { FLAGS.difference(*no) } else { FLAGS };
        let mut allowed: Vec<Restriction> = operations.map(Restriction::sqe_op).collect();
        allowed.extend(registers.map(Restriction::register_op));
        allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()?;
        Ok(ring)
    }
}

/// One that does not know some setups.
struct Older(fn(Option<Features>) -> bool);

impl Kernel for Older {
    fn make(&self, setup: Setup) -> io::Result<IoUring> {
        let mut builder = setup.builder();
        if !self.0(setup.features) {
            // A thread of the kernel's that submits needs no telling when there is work: EINVAL.
            builder.setup_taskrun_flag().setup_sqpoll(1);
        }
        setup.build(&builder)
    }
}

/// One that takes entries for something else.
struct Mistaking(fn(Entry) -> Entry);

impl Kernel for Mistaking {
    fn understand(&self, entry: Entry) -> Entry {
        self.0(entry)
    }
}

/// Two fields of an entry: `ioprio`, where a receive says that it goes on, and `len`, where a poll does.
fn says(entry: &Entry) -> (u16, u32) {
    let at = (&raw const *entry).cast::<u8>();
    // SAFETY: an entry is laid out as `struct io_uring_sqe`, with these fields, which every operation sets,
    // at these places.
    unsafe { (at.add(2).cast::<u16>().read(), at.add(24).cast::<u32>().read()) }
}

fn refused_if(refused: bool, entry: Entry) -> Entry {
    if refused { entry.flags(Flags::from_bits_retain(UNKNOWN_FLAG)) } else { entry }
}

/// Linux 5.12 and before.
fn no_poll_goes_on(entry: Entry) -> Entry {
    let refused = entry.get_opcode() == u32::from(opcode::PollAdd::CODE) && says(&entry).1 != 0;
    refused_if(refused, entry)
}

/// Linux 5.19.
fn no_receive_goes_on(entry: Entry) -> Entry {
    let refused = entry.get_opcode() == u32::from(opcode::Recv::CODE) && says(&entry).0 != 0;
    refused_if(refused, entry)
}

fn sends_always_tell(entry: Entry) -> Entry {
    if entry.get_opcode() == u32::from(opcode::Send::CODE) { entry.clear_flags() } else { entry }
}

/// What is found to be missing, and that the rest is found to work as it does without the refusal.
#[track_caller]
fn lacks(kernel: &dyn Kernel, missing: &[(Feature, &str)]) {
    // Of the machine, not of what is tried.
    let Ok(all) = probe(Features::NONE) else { return };
    let probed = probe_of(kernel, Features::NONE).expect("what is left is enough");
    let lacked: Vec<_> = probed.missing.iter().map(|(feature, _)| *feature).collect();
    let due: Vec<_> = missing.iter().map(|(feature, _)| *feature).collect();
    let known: Vec<_> = all.missing.iter().map(|(feature, _)| *feature).collect();
    let expected =
        Feature::ALL.into_iter().filter(|feature| due.contains(feature) || known.contains(feature));
    assert!(expected.eq(Feature::ALL.into_iter().filter(|feature| lacked.contains(feature))), "{probed:?}");
    for (feature, why) in missing.iter().filter(|(feature, _)| !known.contains(feature)) {
        let told = probed.missing.iter().filter(|(other, said)| other == feature && said.contains(why));
        assert_eq!(told.count(), 1, "{feature} for {why:?}: {probed:?}");
    }
    let left = due.into_iter().fold(all.features, Features::without);
    assert_eq!(probed.features, left, "{probed:?}");
}

#[track_caller]
fn cannot_run(kernel: &dyn Kernel, why: &str) {
    if probe(Features::NONE).is_ok() {
        let unavailable = probe_of(kernel, Features::NONE).expect_err("nothing works without").to_string();
        assert!(unavailable.starts_with(why), "{unavailable}");
    }
}

const FORBIDDEN: &str = "Permission denied";
const UNKNOWN: &str = "Invalid argument";
const OF_THE_RING: &str = "the kernel does not know it, or refuses it";

#[test]
fn a_ring_that_may_do_all_that_is_tried_lacks_nothing() {
    lacks(&Refusing::Nothing, &[]);
}

#[test]
fn an_operation_that_is_refused_is_lacked_and_nothing_else() {
    lacks(&Refusing::Operation(opcode::Connect::CODE), &[(Feature::Connect, FORBIDDEN)]);
    lacks(&Refusing::Operation(opcode::MsgRingData::CODE), &[(Feature::MessageRing, FORBIDDEN)]);
    lacks(&Refusing::Operation(opcode::Recv::CODE), &[(Feature::Buffers, FORBIDDEN)]);
    lacks(&Refusing::Operation(opcode::Send::CODE), &[(Feature::SkipSuccess, FORBIDDEN)]);
}

#[test]
fn a_flag_that_is_refused_is_lacked_by_all_who_set_it() {
    // A message that arrives says nothing to who sent it.
    let silent = [(Feature::SkipSuccess, FORBIDDEN), (Feature::MessageRing, FORBIDDEN)];
    lacks(&Refusing::Flag(Flags::SKIP_SUCCESS), &silent);
    lacks(&Refusing::Flag(Flags::BUFFER_SELECT), &[(Feature::Buffers, FORBIDDEN)]);
}

#[test]
fn what_cannot_be_registered_is_lacked() {
    lacks(&Refusing::Registering(REGISTER_PBUF_RING), &[(Feature::Buffers, FORBIDDEN)]);
    lacks(&Refusing::Registering(REGISTER_RING_FDS), &[(Feature::RingFd, OF_THE_RING)]);
}

#[test]
fn without_polls_or_cancellations_there_is_no_reactor() {
    cannot_run(&Refusing::Operation(opcode::PollAdd::CODE), "io_uring_enter: Permission denied");
    cannot_run(&Refusing::Operation(opcode::AsyncCancel::CODE), "io_uring_enter: it never completes");
}

#[test]
fn multishot_is_lacked_where_either_polls_or_receives_do_not_go_on() {
    lacks(&Mistaking(no_poll_goes_on), &[(Feature::Multishot, UNKNOWN)]);
    lacks(&Mistaking(no_receive_goes_on), &[(Feature::Multishot, UNKNOWN)]);
}

#[test]
fn what_is_ignored_is_lacked_too() {
    lacks(&Mistaking(sends_always_tell), &[(Feature::SkipSuccess, "it completes with [(1, 5, false)]")]);
}

#[test]
fn an_older_kernel_is_asked_for_what_it_knows() {
    let linux_6_5 = Older(|asked| asked.is_none_or(|features| !features.has(Feature::NoSqArray)));
    lacks(&linux_6_5, &[(Feature::NoSqArray, OF_THE_RING)]);
    let linux_6_0 = Older(|asked| {
        asked.is_none_or(|features| !features.has(Feature::NoSqArray) && !features.has(Feature::DeferTaskrun))
    });
    let missing = [(Feature::NoSqArray, OF_THE_RING), (Feature::DeferTaskrun, OF_THE_RING)];
    lacks(&linux_6_0, &missing);
    lacks(&Older(|asked| asked.is_none()), &missing);
    cannot_run(&Older(|_| false), "io_uring_setup: Invalid argument");
}
