//! Which upstreams are down, as the checks found.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The addresses of the upstreams that are down, of all proxies, by the paths of their groups. Each step takes a time that
/// grows with the logarithm of how many there are, for each upstream that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Down<A = Arc<str>>(BTreeMap<Arc<str>, BTreeSet<A>>);

impl<A> Default for Down<A> {
    fn default() -> Down<A> {
        Down(BTreeMap::new())
    }
}

impl<A: Ord> Down<A> {
    /// Those of one group.
    pub(super) fn of(&self, group: &str) -> Option<&BTreeSet<A>> {
        self.0.get(group)
    }

    pub(super) fn has<Q: Ord + ?Sized>(&self, group: &str, address: &Q) -> bool
    where
        A: Borrow<Q>,
    {
        self.of(group).is_some_and(|all| all.contains(address))
    }

    /// One is down from now on, or is not.
    pub(super) fn turn(&mut self, group: &Arc<str>, address: A, is_down: bool) {
        if is_down {
            self.0.entry(group.clone()).or_default().insert(address);
        } else if let Some(all) = self.0.get_mut(&**group) {
            all.remove(&address);
            if all.is_empty() {
                self.0.remove(&**group);
            }
        }
    }

    /// Those that are not `known` are forgotten; answers whether there were any.
    pub(super) fn forget_others(&mut self, known: &BTreeMap<&str, BTreeSet<&A>>) -> bool {
        let mut are_others = false;
        self.0.retain(|group, all| {
            let own = known.get(&**group);
            let before = all.len();
            all.retain(|address| own.is_some_and(|own| own.contains(address)));
            are_others |= all.len() < before;
            !all.is_empty()
        });
        are_others
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::rc::Rc;

    /// An address whose comparisons are counted.
    #[derive(Clone, Debug)]
    struct Counted(usize, Rc<Cell<u64>>);

    impl Ord for Counted {
        fn cmp(&self, other: &Counted) -> Ordering {
            self.1.set(self.1.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Counted) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted {
        fn eq(&self, other: &Counted) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Counted {}

    /// Comparisons where so many upstreams are found down, looked up by their group, half of them taken out of the settings,
    /// and the rest found up again.
    fn work(count: usize) -> u64 {
        let (mut down, looks) = (Down::default(), Rc::new(Cell::new(0)));
        let group: Arc<str> = "web/shop".into();
        // In an order that has nothing to do with theirs: 7919 is a prime.
        let all: Vec<Counted> = (0..count).map(|n| Counted(n * 7919 % count, looks.clone())).collect();
        all.iter().for_each(|one| down.turn(&group, one.clone(), true));
        assert!(all.iter().all(|one| down.has("web/shop", one)) && !down.has("web", &all[0]));
        let kept = |one: &&Counted| one.0.is_multiple_of(2);
        let known = [("web/shop", all.iter().filter(kept).collect())].into();
        assert!(down.forget_others(&known));
        assert_eq!(down.of("web/shop").map(BTreeSet::len), Some(count / 2));
        assert!(!down.forget_others(&known), "they are gone");
        all.iter().for_each(|one| down.turn(&group, one.clone(), false));
        assert_eq!(down.of("web/shop"), None);
        looks.get()
    }

    #[test]
    fn ten_times_the_upstreams_are_little_more_than_ten_times_the_work() {
        let (few, many) = (work(1_000), work(10_000));
        // The logarithm of 10 000 is a third more than that of 1 000.
        assert!(many < few * 10 * 3 / 2, "{many} comparisons for ten times as many, {few} before");
    }

    #[test]
    fn groups_that_are_gone_are_forgotten_as_a_whole() {
        let mut down: Down = Down::default();
        for group in ["web", "web/shop", "mail"] {
            down.turn(&group.into(), "tcp:10.0.0.1:1".into(), true);
        }
        let one: Arc<str> = "tcp:10.0.0.1:1".into();
        let known = [("web", [&one].into()), ("mail", [&one].into())].into();
        assert!(down.forget_others(&known));
        let has = |down: &Down| ["web", "web/shop", "mail"].map(|group| down.has(group, "tcp:10.0.0.1:1"));
        assert_eq!(has(&down), [true, false, true]);
        assert!(down.forget_others(&BTreeMap::new()) && down.is_empty());
    }
}
