//! Nothing vanishes: every planned request ends in exactly one place, and the sum is checked.

use std::fmt;

use serde::Serialize;

/// How many requests were planned, and where each of them is at the end.
///
/// `planned` is counted by who plans, the others by who ends a request; [`Account::settle`] compares the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Due within the phase, by the schedule; in a closed loop: started.
    pub planned: u64,
    /// Answered rightly, in full.
    pub ok: u64,
    /// Answered with a status that says no (400 and above).
    pub http_error: u64,
    /// The connection could not be made or broke, or what came was not a right answer.
    pub transport_error: u64,
    /// Sent, and not answered within the limit.
    pub timeout: u64,
    /// Refused by ourselves, because too many were waiting for a connection.
    pub shed: u64,
    /// Still waiting for a connection at the end.
    pub unsent: u64,
    /// Sent and not yet answered at the end.
    pub in_flight: u64,
}

/// How a request that had a connection came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered rightly, in full.
    Ok,
    /// Answered with a status that says no.
    HttpError,
    /// No connection, or no right answer.
    TransportError,
    /// No answer within the limit.
    Timeout,
}

impl Account {
    /// Counts a request that came to its end.
    pub fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::HttpError => self.http_error += 1,
            Outcome::TransportError => self.transport_error += 1,
            Outcome::Timeout => self.timeout += 1,
        }
    }

    /// Adds what another shard counted.
    pub fn merge(&mut self, other: &Account) {
        self.planned += other.planned;
        self.ok += other.ok;
        self.http_error += other.http_error;
        self.transport_error += other.transport_error;
        self.timeout += other.timeout;
        self.shed += other.shed;
        self.unsent += other.unsent;
        self.in_flight += other.in_flight;
    }

    /// Requests that failed for certain: infinitely slow, for a threshold.
    pub fn failed(&self) -> u64 {
        self.http_error + self.transport_error + self.timeout + self.shed
    }

    /// Requests of which only a lower bound of the latency is known.
    pub fn unanswered(&self) -> u64 {
        self.unsent + self.in_flight
    }

    /// Requests that came to an end of their own, good or bad.
    pub fn finished(&self) -> u64 {
        self.ok + self.http_error + self.transport_error + self.timeout
    }

    /// The part of all planned requests that was not answered rightly, 0 to 1; 0 if nothing was planned.
    pub fn error_ratio(&self) -> f64 {
        (self.failed() + self.unanswered()) as f64 / self.planned.max(1) as f64
    }

    /// Checks that every planned request is in exactly one place.
    ///
    /// # Errors
    /// Some are missing or counted twice: a bug of the harness, and no number of this run may be believed.
    pub fn settle(&self) -> Result<(), Imbalance> {
        let found = self.ok + self.failed() + self.unanswered();
        if found == self.planned { Ok(()) } else { Err(Imbalance { account: *self, found }) }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { planned, ok, http_error, transport_error, timeout, shed, unsent, in_flight } = self;
        write!(f, "planned {planned}  ok {ok}  http-error {http_error}  net-error {transport_error}  ")?;
        write!(f, "timeout {timeout}  shed {shed}  unsent {unsent}  in-flight {in_flight}")
    }
}

/// The identity of the account does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bug of the harness: {} requests were planned but {found} are accounted for ({account})", account.planned)]
pub struct Imbalance {
    /// What was counted.
    pub account: Account,
    /// How many requests have a place.
    pub found: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some() -> impl Strategy<Value = Account> {
        let n = 0u64..1_000_000;
        (n.clone(), n.clone(), n.clone(), n.clone(), n.clone(), n.clone(), n).prop_map(
            |(ok, http_error, transport_error, timeout, shed, unsent, in_flight)| Account {
                planned: ok + http_error + transport_error + timeout + shed + unsent + in_flight,
                ok,
                http_error,
                transport_error,
                timeout,
                shed,
                unsent,
                in_flight,
            },
        )
    }

    #[test]
    fn a_lost_request_and_one_counted_twice_are_both_found() {
        let mut account = Account { planned: 2, ..Account::default() };
        account.count(Outcome::Ok);
        let lost = account.settle().unwrap_err();
        assert_eq!(lost.found, 1);
        assert!(lost.to_string().contains("2 requests were planned but 1 are accounted for"), "{lost}");
        account.count(Outcome::Timeout);
        account.settle().unwrap();
        account.count(Outcome::Timeout);
        assert_eq!(account.settle().unwrap_err().found, 3);
    }

    #[test]
    fn every_outcome_has_a_place_of_its_own() {
        let mut account = Account { planned: 4, ..Account::default() };
        for outcome in [Outcome::Ok, Outcome::HttpError, Outcome::TransportError, Outcome::Timeout] {
            account.count(outcome);
        }
        let one_each = Account {
            planned: 4,
            ok: 1,
            http_error: 1,
            transport_error: 1,
            timeout: 1,
            ..Account::default()
        };
        assert_eq!(account, one_each);
        assert!((account.error_ratio() - 0.75).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_sum_of_balanced_accounts_is_balanced(parts in prop::collection::vec(some(), 1..9)) {
            let mut total = Account::default();
            for part in &parts {
                prop_assert!(part.settle().is_ok());
                total.merge(part);
            }
            prop_assert!(total.settle().is_ok());
            prop_assert_eq!(total.ok, parts.iter().map(|part| part.ok).sum::<u64>());
            prop_assert_eq!(total.in_flight, parts.iter().map(|part| part.in_flight).sum::<u64>());
        }

        #[test]
        fn one_request_amiss_anywhere_unbalances(account in some(), place in 0usize..8) {
            let mut wrong = account;
            let places: [&mut u64; 8] = [
                &mut wrong.planned, &mut wrong.ok, &mut wrong.http_error, &mut wrong.transport_error,
                &mut wrong.timeout, &mut wrong.shed, &mut wrong.unsent, &mut wrong.in_flight,
            ];
            *places.into_iter().nth(place).unwrap() += 1;
            prop_assert!(wrong.settle().is_err());
        }
    }
}
