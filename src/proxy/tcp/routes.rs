//! Which upstreams a client's connection goes to, by the name that it asks for in TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::selection::Selection;
use super::settings::{ProxyError, Settings};
use super::upstream_settings::Upstream;
use crate::net::is_host_name;
use crate::net::quoted::Quoted;

/// Upstreams with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What routes and reports call it.
    pub name: String,
    /// At least one; a name that has several addresses is as many upstreams.
    pub upstreams: Vec<Upstream>,
    /// How they are chosen and judged; `None`: as the proxy's settings say. Default: none.
    pub selection: Option<Selection>,
}

impl Group {
    /// With the defaults.
    pub fn new(name: impl Into<String>, upstreams: Vec<Upstream>) -> Group {
        Group { name: name.into(), upstreams, selection: None }
    }
}

/// Where connections go that ask for a server's name. Of several routes that fit, the one with the longest name counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What they ask for.
    pub pattern: NamePattern,
    /// The group's name.
    pub group: String,
}

/// Names of servers: `shop.example.org`, or `*.example.org` for all below it, at any depth. Case does not matter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern {
    /// In lower case, without `*.`.
    name: String,
    /// The names below it, and not it itself.
    below: bool,
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<NamePattern, String> {
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        if !is_host_name(name) || name.ends_with('.') {
            return Err(format!(
                "{} is no name of a server; allowed: as in shop.example.org, *.example.org",
                Quoted(text)
            ));
        }
        Ok(NamePattern { name: name.to_ascii_lowercase(), below })
    }
}

impl FromStr for Route {
    type Err = String;

    /// `PATTERN=GROUP`
    fn from_str(text: &str) -> Result<Route, String> {
        let wrong =
            || format!("route {}: it is not PATTERN=GROUP; allowed: as in *.example.org=shop", Quoted(text));
        let (pattern, group) = text.split_once('=').ok_or_else(wrong)?;
        let group = Some(group).filter(|group| !group.is_empty()).ok_or_else(wrong)?;
        Ok(Route { pattern: pattern.parse()?, group: group.to_owned() })
    }
}

/// The places of groups by name; place 0 is that of the upstreams that have none.
#[derive(Debug, Default)]
pub(super) struct Routes {
    exact: BTreeMap<String, usize>,
    below: BTreeMap<String, usize>,
}

impl Routes {
    pub(super) fn new(settings: &Settings) -> Result<Routes, ProxyError> {
        let (mut routes, mut places) = (Routes::default(), BTreeMap::new());
        for (place, group) in settings.groups.iter().enumerate() {
            if group.upstreams.is_empty() {
                return Err(ProxyError::EmptyGroup { group: group.name.clone() });
            }
            if places.insert(&group.name, place + 1).is_some() {
                return Err(ProxyError::GroupTwice { group: group.name.clone() });
            }
        }
        for Route { pattern, group } in &settings.routes {
            let Some(place) = places.get(group) else {
                return Err(ProxyError::NoGroup { pattern: pattern.clone(), group: group.clone() });
            };
            let names = if pattern.below { &mut routes.below } else { &mut routes.exact };
            if names.insert(pattern.name.clone(), *place).is_some() {
                return Err(ProxyError::RouteTwice { pattern: pattern.clone() });
            }
        }
        let routed: BTreeSet<&str> = settings.routes.iter().map(|route| &*route.group).collect();
        match settings.groups.iter().find(|group| !routed.contains(&*group.name)) {
            Some(group) => Err(ProxyError::UnroutedGroup { group: group.name.clone() }),
            None => Ok(routes),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// The group's place for a name in lower case.
    pub(super) fn group(&self, name: &str) -> Option<usize> {
        let mut upper = name;
        let mut above = std::iter::from_fn(|| {
            upper = upper.split_once('.')?.1;
            Some(upper)
        });
        let below = || above.find_map(|name| self.below.get(name));
        self.exact.get(name).or_else(below).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(groups: &[&str], routes: &[&str]) -> Settings {
        let upstream: Upstream = "127.0.0.1:1".parse().unwrap();
        let group = |name: &&str| Group::new(*name, vec![upstream.clone()]);
        Settings {
            groups: groups.iter().map(group).collect(),
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            ..Settings::new(Vec::new(), Vec::new())
        }
    }

    #[test]
    fn the_longest_name_that_fits_counts() {
        let routes = ["example.org=a", "*.example.org=b", "*.shop.example.org=c", "X.shop.example.org=d"];
        let routes = Routes::new(&settings(&["a", "b", "c", "d"], &routes)).unwrap();
        for (name, place) in [
            ("example.org", Some(1)),
            ("www.example.org", Some(2)),
            ("shop.example.org", Some(2)),
            ("a.b.example.org", Some(2)),
            ("y.shop.example.org", Some(3)),
            ("x.shop.example.org", Some(4)),
            ("z.x.shop.example.org", Some(3)),
            ("org", None),
            ("example.com", None),
            ("notexample.org", None),
            ("", None),
        ] {
            assert_eq!(routes.group(name), place, "{name}");
        }
        assert!(!routes.is_empty() && Routes::default().is_empty());
    }

    #[test]
    fn groups_and_routes_belong_together() {
        for (groups, routes, wrong) in [
            (&["a"][..], &["x.org=b"][..], "there is no group"),
            (&["a"], &["x.org=a", "X.ORG=a"], "x.org has two routes"),
            (&["a", "b"], &["x.org=a"], "no route leads to the group \"b\""),
            (&["a", "a"], &["x.org=a"], "two groups"),
        ] {
            let told = Routes::new(&settings(groups, routes)).unwrap_err().to_string();
            assert!(told.contains(wrong), "{told}");
        }
        let mut none = settings(&["a"], &["x.org=a"]);
        none.groups[0].upstreams.clear();
        assert!(Routes::new(&none).unwrap_err().to_string().contains("has no upstream"));
        assert!(Routes::new(&settings(&["a"], &["x.org=a", "*.x.org=a"])).is_ok());
    }

    #[test]
    fn patterns_that_match_nothing_are_refused() {
        for text in ["", "*", "*.", "a.*", "*.*.a", "a b", "a.", "*a.org", "a..b"] {
            let told = format!("{text}=g").parse::<Route>().unwrap_err();
            assert!(told.contains("allowed: ") && told.contains(&format!("{text:?}")), "{told}");
        }
        for text in ["", "a.org", "a.org="] {
            assert!(text.parse::<Route>().unwrap_err().contains("PATTERN=GROUP"), "{text:?}");
        }
        assert_eq!("*.Example.ORG".parse::<NamePattern>().unwrap().to_string(), "*.example.org");
    }
}
