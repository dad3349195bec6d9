//! What of io_uring is used where the kernel has it, and may be switched off where the kernel has it wrong.

use std::fmt;
use std::str::FromStr;

/// Something of io_uring that this reactor uses and can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `buffers`: receives take their memory from a ring of provided buffers (Linux 5.19). Without it a receive is a
    /// poll in the ring and recv(2) behind it.
    Buffers,
    /// `multishot`: one receive goes on giving, one poll goes on telling (Linux 6.0). Without it each is asked for
    /// again.
    Multishot,
    /// `skip`: a send that the kernel took whole tells nothing (Linux 5.17). Without it each send completes.
    SkipSuccess,
    /// `msg_ring`: a shard wakes another through the rings (Linux 5.18) where that was measured to be faster. Without
    /// it through an eventfd.
    MessageRing,
    /// `defer_taskrun`: the kernel works for the ring only while the shard waits (Linux 6.1). Without it, whenever the
    /// thread is in the kernel.
    DeferTaskrun,
    /// `no_sqarray`: one level less between the queue and its entries (Linux 6.6).
    NoSqArray,
    /// `ring_fd`: the ring's descriptor is registered, so that entering looks none up (Linux 5.18).
    RingFd,
    /// `connect`: the ring connects (Linux 5.5). Without it connect(2) does, and the ring tells when that is done.
    Connect,
    /// `splice`: streams are forwarded through a pipe, without a copy (splice(2)). Without it they are received and sent.
    Splice,
    /// `no_iowait`: waiting does not count as waiting for a disk (Linux 6.15).
    NoIowait,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 10] = [
        Feature::Buffers,
        Feature::Multishot,
        Feature::SkipSuccess,
        Feature::MessageRing,
        Feature::DeferTaskrun,
        Feature::NoSqArray,
        Feature::RingFd,
        Feature::Connect,
        Feature::Splice,
        Feature::NoIowait,
    ];

    /// The name by which an operator switches it off.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::Buffers => "buffers",
            Feature::Multishot => "multishot",
            Feature::SkipSuccess => "skip",
            Feature::MessageRing => "msg_ring",
            Feature::DeferTaskrun => "defer_taskrun",
            Feature::NoSqArray => "no_sqarray",
            Feature::RingFd => "ring_fd",
            Feature::Connect => "connect",
            Feature::Splice => "splice",
            Feature::NoIowait => "no_iowait",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Some features. Shows and reads as `multishot,msg_ring`; none of them as nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u16);

impl Features {
    /// None.
    pub const NONE: Features = Features(0);

    /// How many sets there are.
    pub(crate) const SETS: usize = 1 << Feature::ALL.len();

    pub(crate) const fn from_bits(bits: usize) -> Features {
        Features(bits as u16)
    }

    pub(crate) const fn bits(self) -> usize {
        self.0 as usize
    }

    /// These and one more.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Features {
        Features(self.0 | 1 << feature as u16)
    }

    /// These but for one.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Features {
        Features(self.0 & !(1 << feature as u16))
    }

    /// Whether it is one of them.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u16 != 0
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Feature::ALL.into_iter().filter(|feature| self.has(*feature)).map(Feature::name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

/// A name that no feature has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFeature(String);

impl fmt::Display for UnknownFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no feature is named {:?}", self.0)
    }
}

impl std::error::Error for UnknownFeature {}

impl FromStr for Features {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<Features, UnknownFeature> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.into_iter().try_fold(Features::NONE, |some, name| {
            let known = Feature::ALL.into_iter().find(|feature| feature.name() == name);
            known.map(|feature| some.with(feature)).ok_or_else(|| UnknownFeature(name.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_shows_and_a_wrong_name_is_told() {
        for feature in Feature::ALL {
            let one = Features::NONE.with(feature);
            assert_eq!(one.to_string().parse(), Ok(one));
            assert_eq!(Feature::ALL.into_iter().filter(|other| one.has(*other)).count(), 1);
            assert_eq!(one.without(feature), Features::NONE);
            assert_eq!(crate::Uring::kept_without(one).off, one);
        }
        let two: Features = " multishot, msg_ring,".parse().unwrap();
        assert_eq!(two.to_string(), "multishot,msg_ring");
        assert_eq!("".parse(), Ok(Features::NONE));
        let wrong = "multishot,Buffers".parse::<Features>().unwrap_err();
        assert_eq!(wrong.to_string(), "no feature is named \"Buffers\"");
    }
}
