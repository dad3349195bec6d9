//! What goes wrong, and when: rules with a verdict each.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use waterwheel_reactor::Time;

/// What a rule does to what it strikes. Which moments it is asked at, and what its two sides are there:
///
/// | verdicts | asked when | from | to |
/// |---|---|---|---|
/// | [`Refuse`](Verdict::Refuse), [`Lose`](Verdict::Lose), [`Delay`](Verdict::Delay), [`Hold`](Verdict::Hold) | a connect begins, and is tried again | who connects | where to |
/// | [`Delay`](Verdict::Delay), [`Stall`](Verdict::Stall), [`Hold`](Verdict::Hold), [`Reset`](Verdict::Reset), [`HalfOpen`](Verdict::HalfOpen) | bytes, or an end, are sent | who sends | who is to receive |
/// | [`Refuse`](Verdict::Refuse) (nobody is there), [`Lose`](Verdict::Lose), [`Delay`](Verdict::Delay), [`Hold`](Verdict::Hold) (lost) | a datagram is sent | who sends | where to |
/// | [`Delay`](Verdict::Delay), [`Hold`](Verdict::Hold) | a reset is sent | who resets | who is to learn of it |
/// | [`SlowReader`](Verdict::SlowReader) | somebody reads | who sent | who reads |
/// | [`ShortWrite`](Verdict::ShortWrite) | somebody writes | who writes | who is to receive |
/// | [`AcceptFails`](Verdict::AcceptFails) | a connection is accepted | who connected | the listener |
/// | [`Panic`](Verdict::Panic), [`SlowTurn`](Verdict::SlowTurn) | a shard takes a turn | the host | the host |
/// | [`NameLate`](Verdict::NameLate), [`NameUnknown`](Verdict::NameUnknown) | a name is asked for | who asks | the host of that name, if there is one |
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// A connect is refused.
    Refuse,
    /// A connect is never answered: it fails after 127 s, as where `net.ipv4.tcp_syn_retries` is 6 (tcp(7)).
    Lose,
    /// What is under way takes so much longer.
    Delay(Duration),
    /// This direction of the connection moves nothing for so long; then goes on.
    Stall(Duration),
    /// A partition: what is sent is lost, and sent again once the rule's time is over ([`Rule::between`]). A rule
    /// whose time never ends breaks connections that have something to say after 924 s (`net.ipv4.tcp_retries2`).
    Hold,
    /// The connection is reset, for both.
    Reset,
    /// The other side vanishes without a word: nothing arrives any more, in either direction, and nobody is told, but by
    /// keep-alive, or after 924 s if there was something to say.
    HalfOpen,
    /// The reader gets at most so many bytes, then nothing for so long.
    SlowReader(usize, Duration),
    /// A write takes at most so many bytes.
    ShortWrite(usize),
    /// Accepting fails with this error of the system's (its number: `EMFILE` is 24), and the connection stays in the
    /// queue.
    AcceptFails(i32),
    /// The shard's root panics, in the middle of a turn.
    Panic,
    /// After its turn the shard does nothing for so long.
    SlowTurn(Duration),
    /// The answer takes so long.
    NameLate(Duration),
    /// There is no such name.
    NameUnknown,
}

impl Verdict {
    /// Whether it is asked for at this moment.
    pub(crate) fn strikes(self, moment: Moment) -> bool {
        use Verdict::{
            AcceptFails, Delay, HalfOpen, Hold, Lose, NameLate, NameUnknown, Panic, Refuse, Reset,
            ShortWrite, SlowReader, SlowTurn, Stall,
        };
        match self {
            Refuse | Lose => matches!(moment, Moment::Connect | Moment::Datagram),
            Delay(_) | Hold => {
                matches!(moment, Moment::Connect | Moment::Send | Moment::Reset | Moment::Datagram)
            }
            Stall(_) | Reset | HalfOpen => moment == Moment::Send,
            SlowReader(..) => moment == Moment::Read,
            ShortWrite(_) => moment == Moment::Write,
            AcceptFails(_) => moment == Moment::Accept,
            Panic | SlowTurn(_) => moment == Moment::Turn,
            NameLate(_) | NameUnknown => moment == Moment::Lookup,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// When rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Connect,
    Send,
    Reset,
    Read,
    Write,
    Accept,
    Turn,
    Lookup,
    Datagram,
}

/// Which hosts or addresses one side of a rule means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whom {
    /// All.
    #[default]
    Anyone,
    /// A host, by its name.
    Host(Box<str>),
    /// Whoever uses this address, whatever the port.
    Ip(IpAddr),
    /// Whoever uses this address and port.
    At(SocketAddr),
    /// A shard of a host; for verdicts about turns.
    Shard(Box<str>, usize),
}

impl From<&str> for Whom {
    /// A host's name.
    fn from(name: &str) -> Whom {
        Whom::Host(name.into())
    }
}

impl From<IpAddr> for Whom {
    fn from(ip: IpAddr) -> Whom {
        Whom::Ip(ip)
    }
}

impl From<SocketAddr> for Whom {
    fn from(at: SocketAddr) -> Whom {
        Whom::At(at)
    }
}

impl From<(&str, usize)> for Whom {
    /// A shard of a host.
    fn from((name, shard): (&str, usize)) -> Whom {
        Whom::Shard(name.into(), shard)
    }
}

/// One side of what a rule is asked about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Party<'a> {
    pub(crate) host: Option<&'a str>,
    pub(crate) shard: Option<usize>,
    pub(crate) at: Option<SocketAddr>,
}

impl Whom {
    fn means(&self, party: &Party<'_>) -> bool {
        match self {
            Whom::Anyone => true,
            Whom::Host(name) => party.host == Some(name),
            Whom::Ip(ip) => party.at.is_some_and(|at| at.ip() == *ip),
            Whom::At(at) => party.at == Some(*at),
            Whom::Shard(name, shard) => party.host == Some(name) && party.shard == Some(*shard),
        }
    }
}

/// When, to whom and how often a verdict is passed. Rules are asked in the order in which they were added; the first
/// that strikes counts.
///
/// ```
/// use std::time::Duration;
/// use waterwheel_sim::{Rule, Verdict};
/// // From the second second to the third, every tenth connect to the origin is refused, three at most.
/// let second = Duration::from_secs(1);
/// let rule = Rule::new(Verdict::Refuse).to("origin").between(second..=2 * second).with(0.1).at_most(3);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub(crate) verdict: Verdict,
    from: Whom,
    to: Whom,
    begin: Time,
    pub(crate) end: Time,
    pub(crate) probability: f64,
    left: u64,
}

impl Rule {
    /// Always, to everybody.
    pub fn new(verdict: Verdict) -> Rule {
        let (from, to) = Default::default();
        Rule { verdict, from, to, begin: Time::ZERO, end: Time::NEVER, probability: 1.0, left: u64::MAX }
    }

    /// Only from these: see [`Verdict`] for what that is.
    #[must_use]
    pub fn from(mut self, whom: impl Into<Whom>) -> Rule {
        self.from = whom.into();
        self
    }

    /// Only to these.
    #[must_use]
    pub fn to(mut self, whom: impl Into<Whom>) -> Rule {
        self.to = whom.into();
        self
    }

    /// Only while the world is that old.
    #[must_use]
    pub fn between(mut self, age: RangeInclusive<Duration>) -> Rule {
        (self.begin, self.end) = (Time::ZERO + *age.start(), Time::ZERO + *age.end());
        self
    }

    /// Only with this probability, each time that it is asked.
    ///
    /// # Panics
    /// If it is not from 0 to 1.
    #[must_use]
    pub fn with(mut self, probability: f64) -> Rule {
        assert!((0.0..=1.0).contains(&probability), "{probability} is no probability");
        self.probability = probability;
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn at_most(mut self, times: u64) -> Rule {
        self.left = times;
        self
    }

    /// The hosts that it names.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        [&self.from, &self.to].into_iter().filter_map(|whom| match whom {
            Whom::Host(name) | Whom::Shard(name, _) => Some(&**name),
            _ => None,
        })
    }

    /// Whether it concerns this at all.
    pub(crate) fn concerns(&self, moment: Moment, now: Time, from: &Party<'_>, to: &Party<'_>) -> bool {
        self.left > 0
            && self.verdict.strikes(moment)
            && (self.begin..=self.end).contains(&now)
            && self.from.means(from)
            && self.to.means(to)
    }

    /// It struck.
    pub(crate) fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_limit_of_a_rule_limits_it() {
        let second = Duration::from_secs(1);
        let client = Party { host: Some("client"), shard: None, at: at("10.0.0.1:5000") };
        let origin = Party { host: Some("origin"), shard: None, at: at("10.0.0.2:80") };
        let strikes = |rule: &Rule, after: Duration, from: &Party<'_>, to: &Party<'_>| {
            rule.concerns(Moment::Connect, Time::ZERO + after, from, to)
        };
        let rule =
            Rule::new(Verdict::Refuse).from("client").to(origin.at.unwrap()).between(second..=2 * second);
        assert!(strikes(&rule, second, &client, &origin) && strikes(&rule, 2 * second, &client, &origin));
        assert!(!strikes(&rule, Duration::ZERO, &client, &origin), "too early");
        assert!(!strikes(&rule, 3 * second, &client, &origin), "too late");
        assert!(!strikes(&rule, second, &origin, &client), "the other way round");
        assert!(!rule.concerns(Moment::Send, Time::ZERO + second, &client, &origin), "another moment");
        let elsewhere = Party { at: at("10.0.0.2:81"), ..origin };
        assert!(!strikes(&rule, second, &client, &elsewhere), "another port");
        let mut twice = Rule::new(Verdict::Refuse).at_most(2);
        for _ in 0..2 {
            assert!(strikes(&twice, second, &client, &origin));
            twice.spend();
        }
        assert!(!strikes(&twice, second, &client, &origin), "spent");
    }
}
