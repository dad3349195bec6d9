//! A reader of what Prometheus reads, written from the format's description alone: text format 0.0.4 and OpenMetrics 1.0.
//! Strict where scrapers are lenient.

use std::collections::BTreeMap;

/// A page that was read: by name and labels, in the order in which they stand, the value.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) series: BTreeMap<String, f64>,
    /// By family: its type.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) help: BTreeMap<String, String>,
}

impl Page {
    /// # Panics
    /// If it is not as it should be.
    pub(crate) fn read(text: &str, open_metrics: bool) -> Page {
        let mut page = Page::default();
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut lines: Vec<&str> = text.lines().collect();
        if open_metrics {
            assert_eq!(lines.pop(), Some("# EOF"));
        }
        let mut family = String::new();
        for line in lines {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(page.help.insert(name.into(), help.into()).is_none(), "described twice: {name}");
                family = name.into();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, family, "the type belongs to another family");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                page.types.insert(name.into(), kind.into());
            } else {
                page.sample(line, &family, open_metrics);
            }
        }
        page.check_histograms();
        page
    }

    fn sample(&mut self, line: &str, family: &str, open_metrics: bool) {
        let (name, labels, value) = sample(line);
        let kind = self.types.get(family).unwrap_or_else(|| panic!("no type before {line}"));
        let endings: &[&str] = match &**kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            "counter" if open_metrics => &["_total"],
            _ => &[""],
        };
        let ending = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} among those of {family}"));
        assert!(endings.contains(&ending), "{line} is no line of a {kind}");
        assert!(kind != "counter" || value >= 0.0, "{line}");
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let key = format!("{name}{{{}}}", labels.join(","));
        assert!(self.series.insert(key, value).is_none(), "twice: {line}");
    }

    /// Each histogram's buckets grow, and the last one is the count.
    fn check_histograms(&self) {
        for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (key, value) in &self.series {
                let Some(labels) = key.strip_prefix(&format!("{family}_bucket{{")) else { continue };
                let (others, bound) = labels.trim_end_matches('}').rsplit_once("le=").expect("a bound");
                let others = others.trim_end_matches(',').to_owned();
                buckets.entry(others).or_default().push((number(bound), *value));
            }
            for (labels, mut bounds) in buckets {
                bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(bounds.windows(2).all(|two| two[0].1 <= two[1].1), "{family} {labels}: {bounds:?}");
                let (last, all) = bounds[bounds.len() - 1];
                assert!(last.is_infinite(), "{family} {labels}");
                assert_eq!(self.series.get(&format!("{family}_count{{{labels}}}")), Some(&all));
                assert!(self.series.contains_key(&format!("{family}_sum{{{labels}}}")));
            }
        }
    }

    /// The value of one line, as in `mill_total{wheel=1}`.
    pub(crate) fn value(&self, key: &str) -> f64 {
        *self.series.get(key).unwrap_or_else(|| panic!("no {key} in {:#?}", self.series.keys()))
    }

    /// What may only grow: counters, and what histograms count.
    pub(crate) fn growing(&self) -> impl Iterator<Item = (&str, f64)> {
        let series = self.series.iter().map(|(key, value)| (&**key, *value));
        series.filter(|(key, _)| {
            let name = key.split('{').next().unwrap_or_default();
            ["_total", "_bucket", "_count"].iter().any(|ending| name.ends_with(ending))
        })
    }

    /// Checks that nothing of what may only grow is less than it was, or gone.
    pub(crate) fn has_grown_since(&self, before: &Page) {
        for (key, value) in before.growing() {
            let now = self.value(key);
            assert!(now >= value, "{key} went back from {value} to {now}");
        }
    }
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        _ => {
            assert!(text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte)), "{text}");
            text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
        }
    }
}

/// The name, the labels and the value of a line.
fn sample(line: &str) -> (&str, Vec<(&str, String)>, f64) {
    let is_name = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
    };
    let end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels: Vec<(&str, String)> = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label");
            assert!(is_name(label) && labels.iter().all(|(other, _)| *other != label), "{line}");
            let (value, after) = unescaped(after);
            labels.push((label, value));
            match after.split_at(1) {
                (",", after) => rest = after,
                ("}", after) => {
                    rest = after;
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name, labels, number(value))
}

/// A label's value up to its quote, and what follows that.
fn unescaped(text: &str) -> (String, &str) {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match letters.next().expect("something after a backslash").1 {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                other => panic!("\\{other} means nothing"),
            }),
            other => value.push(other),
        }
    }
    panic!("a value without an end: {text}")
}
