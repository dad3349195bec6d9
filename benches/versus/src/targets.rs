//! What Waterwheel has set itself to reach, and whether a run shows it.
//!
//! A ratio of medians counts as reached if the upper end of its interval is at most [`MARGIN`] above its
//! bound. A target is judged only where all of its subjects were measured: of some of them the best may be
//! another.

use fastrand::Rng;

use crate::asked::{Of, What};
use crate::report::cell;
use crate::statistics::{median, ratio_of_medians};

/// How far above its bound the interval may end: a machine that others use too tells no less apart.
pub const MARGIN: f64 = 0.03;

/// Of fewer rounds the interval is too narrow; of one it is a point. Memory differs little between rounds and
/// needs no more than one.
pub const ROUNDS_MIN: usize = 10;

/// A ratio to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// CPU per message, or p99.
    pub what: What,
    /// Of which servers.
    pub of: Of,
    /// Under which load.
    pub workload: &'static str,
    /// Whose ratio is at most the bound.
    pub ours: &'static str,
    /// To the best of these, by median.
    pub to: &'static [&'static str],
    /// At most this.
    pub bound: f64,
}

const OURS: &str = "waterwheel-uring";
const BETTER: &[&str] = &["haproxy", "nginx"];
const PROXIES: &[&str] = &["haproxy", "nginx", "tokio", "monoio"];
const ECHOES: &[&str] = &["tokio", "monoio", "glommio"];

/// All of them, by what is measured and under which load.
pub const TARGETS: [Target; 12] = [
    proxies("64b-1", BETTER, 1.0),
    proxies("64b-64", BETTER, 0.80),
    proxies("64b-64", &["bare-uring"], 1.08),
    proxies("64b-512", BETTER, 0.80),
    proxies("16k-64", BETTER, 1.0),
    proxies("stream-8", &["haproxy-splice"], 1.0),
    proxies("connect-16", BETTER, 0.90),
    echo("64b-64", &["bare-epoll"], 0.90),
    // The runtime itself, not our reactor on it.
    echo("64b-64", &["glommio"], 0.62),
    echo("64b-64", &["bare-uring"], 1.08),
    latency(Of::Proxies, PROXIES),
    latency(Of::Echo, ECHOES),
];

const fn proxies(workload: &'static str, to: &'static [&'static str], bound: f64) -> Target {
    Target { what: What::Cost, of: Of::Proxies, workload, ours: OURS, to, bound }
}

const fn echo(workload: &'static str, to: &'static [&'static str], bound: f64) -> Target {
    Target { what: What::Cost, of: Of::Echo, workload, ours: OURS, to, bound }
}

const fn latency(of: Of, to: &'static [&'static str]) -> Target {
    Target { what: What::Latency, of, workload: "64b-64", ours: OURS, to, bound: 1.1 }
}

/// Bytes of user space that an idle proxied connection may take, both of its sides together.
const IDLE_BYTES_MAX: f64 = 2048.0;

/// A target and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whose number beside whose or what, the number, and the bound.
    pub text: String,
    /// Whether it counts as reached; `None` where there were too few rounds to tell.
    pub reached: Option<bool>,
}

impl Judged {
    /// In a line.
    pub fn line(&self) -> String {
        let verdict = match self.reached {
            Some(true) => "reached".to_owned(),
            Some(false) => "NOT REACHED".to_owned(),
            None => format!("too few rounds to tell, which takes {ROUNDS_MIN}"),
        };
        format!("Target: {}: {verdict}", self.text)
    }
}

/// Judges what a table's numbers can tell: `values` has each subject's by round.
pub(crate) fn judge(
    (what, of, workload): (What, Of, &str),
    subjects: &[&str],
    values: &[Vec<f64>],
    random: &mut Rng,
) -> Vec<Judged> {
    let rounds = values.iter().map(Vec::len).max().unwrap_or(0);
    // A percentile that some round does not have is not known.
    let values_of = |name: &str| {
        let place = subjects.iter().position(|subject| *subject == name)?;
        Some((name.to_owned(), &values[place])).filter(|(_, values)| rounds > 0 && values.len() == rounds)
    };
    let here =
        TARGETS.iter().filter(|target| (target.what, target.of, target.workload) == (what, of, workload));
    here.filter_map(|target| {
        let (_, ours) = values_of(target.ours)?;
        let to: Vec<_> = target.to.iter().map(|name| values_of(name)).collect::<Option<_>>()?;
        let (name, to) = to.iter().min_by(|one, other| median(one.1).total_cmp(&median(other.1)))?;
        let ratio = ratio_of_medians(ours, to, random);
        let number = if what == What::Latency { "p99" } else { "CPU" };
        Some(Judged {
            text: format!(
                "{number} of {} is {} of that of {name}, at most {:.2}",
                target.ours,
                cell(ratio),
                target.bound
            ),
            reached: (rounds >= ROUNDS_MIN).then_some(ratio.high <= target.bound + MARGIN),
        })
    })
    .collect()
}

/// Judges what idle connections take, beyond what comes with the first ones and all share.
pub(crate) fn judge_memory(of: Of, subject: &str, bytes_each: f64) -> Option<Judged> {
    ((of, subject) == (Of::Proxies, OURS)).then(|| Judged {
        text: format!(
            "an idle connection takes {bytes_each:.0} bytes in {subject}, at most {IDLE_BYTES_MAX:.0}"
        ),
        reached: Some(bytes_each <= IDLE_BYTES_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Workload;

    const HERE: (What, Of, &str) = (What::Cost, Of::Proxies, "64b-512");
    const SUBJECTS: [&str; 3] = ["nginx", "waterwheel-uring", "haproxy"];

    fn judged(values: [&[f64]; 3]) -> Vec<Judged> {
        judge(HERE, &SUBJECTS, &values.map(<[f64]>::to_vec), &mut Rng::with_seed(1))
    }

    #[test]
    fn the_better_peer_and_the_upper_end_decide() {
        let steady = |micros: f64| [micros; 10];
        // To 10 µs, not to 20.
        let of = judged([&steady(20.0), &steady(8.2), &steady(10.0)]);
        assert_eq!(
            of[0].text,
            "CPU of waterwheel-uring is 0.820 (0.820 to 0.820) of that of haproxy, at most 0.80"
        );
        assert!(
            of.len() == 1 && of[0].reached == Some(true) && of[0].line().ends_with(": reached"),
            "{of:?}"
        );
        let of = judged([&steady(10.0), &steady(8.4), &steady(20.0)]);
        assert!(of[0].text.contains("of nginx") && of[0].reached == Some(false), "{of:?}");
        assert!(of[0].line().ends_with(": NOT REACHED"));
        // The median is within the bound, the interval is not.
        let unsure = [7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 12.0, 12.0, 12.0, 12.0];
        assert_eq!(judged([&steady(20.0), &unsure, &steady(10.0)])[0].reached, Some(false));
        let of = judged([&[20.0; 9], &[8.2; 9], &[10.0; 9]]);
        assert!(of[0].reached.is_none() && of[0].line().ends_with("takes 10"), "{of:?}");
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let ten = vec![10.0; 10];
        let random = &mut Rng::with_seed(1);
        assert!(judge(HERE, &["waterwheel-uring", "nginx"], &[ten.clone(), ten.clone()], random).is_empty());
        assert!(judge(HERE, &["nginx", "haproxy"], &[ten.clone(), ten.clone()], random).is_empty());
        assert!(judged([&ten, &ten[..9], &ten]).is_empty());
        assert!(judged([&[], &[], &[]]).is_empty());
        let elsewhere = (What::Cost, Of::Echo, "64b-512");
        assert!(judge(elsewhere, &SUBJECTS, &[ten.clone(), ten.clone(), ten], random).is_empty());
    }

    #[test]
    fn every_target_is_of_a_load_and_of_subjects_that_there_are() {
        let subjects =
            ["haproxy", "haproxy-splice", "nginx", "tokio", "monoio", "glommio", "bare-epoll", "bare-uring"];
        let loads = || Workload::EXCHANGES.iter().chain(&Workload::OF_PROXIES);
        for target in TARGETS {
            assert!(loads().any(|load| load.name == target.workload), "{target:?}");
            assert!(
                target.to.iter().all(|name| subjects.contains(name)) && !target.to.is_empty(),
                "{target:?}"
            );
        }
    }

    #[test]
    fn idle_memory_of_our_proxy_has_a_bound() {
        assert!(judge_memory(Of::Proxies, "waterwheel-uring", 2048.0).unwrap().reached == Some(true));
        assert!(judge_memory(Of::Proxies, "waterwheel-uring", 2049.0).unwrap().reached == Some(false));
        assert_eq!(judge_memory(Of::Echo, "waterwheel-uring", 1.0), None);
        assert_eq!(judge_memory(Of::Proxies, "haproxy", 1.0), None);
    }
}
