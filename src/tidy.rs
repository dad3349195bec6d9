//! What reviewers forget and no other tool looks at: the floors, the sizes, the bans, the tables.
//!
//! Each rule is a function from the text of all files to a list of complaints. `each_rule_finds_what_was_planted`
//! shows for every rule that it complains when it should.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use waterwheel::runtime::Knob;

/// Every text file of the repository by its path from the root.
type Tree = BTreeMap<String, String>;
type Rule = fn(&Tree) -> Vec<String>;

const RULES: [(&str, Rule); 11] = [
    ("floors", floors),
    ("crates", crates),
    ("length", length),
    ("bans", bans),
    ("unsafe", unsafety),
    ("top level", top_level),
    ("variables", variables),
    ("other variables", other_variables),
    ("paths", machine_paths),
    ("registry", registry),
    ("patches", patches),
];

/// The directories of `src/`, lowest first; those in one row do not import each other.
const FLOORS: [&[&str]; 10] = [
    &["shard"],
    &["mesh"],
    &["steer"],
    &["net"],
    &["metrics"],
    &["runtime"],
    &["process", "sim"],
    &["proxy", "load"],
    &["cli", "manual"],
    &["bin"],
];
/// What may lie at the top level, besides dotfiles and licences.
const TOP: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "src",
    "shards",
    "examples",
    "benches",
    "deploy",
];
/// The reactors, none of which imports another.
const REACTORS: [&str; 4] = ["epoll", "uring", "glommio", "sim"];
/// Feeds the root package to a fuzzer: no member of the workspace, and nothing depends on it. It lies beside the crates
/// since a fuzzer's package is one, and not in `src/`, whose package would then need a fuzzer.
const ABOVE_SRC: &str = "fuzz";
/// The crates that call the system where no safe wrapper does.
const UNSAFE_CRATES: [&str; 4] = ["os", "epoll", "uring", "glommio"];
const LINES_MAX: usize = 600;
/// One example shows one noun; the reactor of one's own is what others read before they write theirs.
const EXAMPLE_LINES_MAX: usize = 100;
const OWN_REACTOR_LINES_MAX: usize = 305;

#[test]
fn the_repository_is_tidy() {
    let tree = read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(tree.contains_key("src/lib.rs") && tree.contains_key("shards/reactor/src/lib.rs"));
    let complaints: Vec<String> = RULES
        .iter()
        .flat_map(|(name, rule)| rule(&tree).into_iter().map(move |complaint| format!("{name}: {complaint}")))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn read(root: &Path) -> Tree {
    // What tools leave behind is none of the repository.
    let ignored = std::fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let is_ignored = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        let mut lines = ignored.lines().chain([".git"]);
        lines.any(|line| match line.strip_prefix("*.") {
            Some(ending) => path.extension().is_some_and(|own| own == ending),
            None => {
                name == line
                    || path.strip_prefix(root).is_ok_and(|own| own == Path::new(line.trim_matches('/')))
            }
        })
    };
    let mut tree = Tree::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| !is_ignored(path)) {
            if path.is_dir() {
                directories.push(path);
            } else if let (Ok(text), Ok(relative)) = (std::fs::read_to_string(&path), path.strip_prefix(root))
            {
                tree.insert(relative.to_string_lossy().into_owned(), text);
            }
        }
    }
    tree
}

// ---- rules

fn floors(tree: &Tree) -> Vec<String> {
    let rank = |name: &str| FLOORS.iter().position(|row| row.contains(&name));
    let mut complaints = Vec::new();
    for (path, lines) in code_outside_tests(tree) {
        let Some(inside) = path.strip_prefix("src/") else { continue };
        let Some((own, rest)) = inside.split_once('/') else {
            if !["lib.rs", "tidy.rs"].contains(&inside) {
                complaints.push(format!("{path} lies on no floor"));
            }
            continue;
        };
        let Some(own_rank) = rank(own) else {
            complaints.push(format!("{path}: there is no floor {own}"));
            continue;
        };
        let depth = 1 + rest.split('/').filter(|part| *part != "mod.rs").count();
        for (number, name) in imports(&lines, depth) {
            match rank(&name) {
                Some(other) if name == own || other < own_rank => {}
                Some(_) => complaints.push(format!("{path}:{number}: {own} is not above {name}")),
                None if own == "bin" || own == "cli" => {}
                None => complaints.push(format!("{path}:{number}: name the floor that {name} is on")),
            }
        }
    }
    complaints
}

/// The first name after each way to the crate's root, with its line: `crate::`, `waterwheel::`, enough `super::`.
fn imports(code: &str, depth: usize) -> Vec<(usize, String)> {
    let ways = ["crate::".to_owned(), "waterwheel::".to_owned(), "super::".repeat(depth)];
    let mut found = Vec::new();
    for way in ways {
        for (at, _) in code.match_indices(&way) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| is_word(letter) || letter == ':') {
                continue;
            }
            let after = &code[at + way.len()..];
            let line = code[..at].matches('\n').count() + 1;
            if let Some(group) = after.strip_prefix('{') {
                found.extend(group_heads(group).into_iter().map(|name| (line, name)));
            } else if !after.starts_with("super::") {
                found.extend(Some((line, word(after))).filter(|(_, name)| !name.is_empty()));
            }
        }
    }
    found
}

/// The first name of each member of a use group, whose opening brace is gone.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut fresh, mut heads) = (0_usize, true, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && is_word(letter) => {
                heads.push(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn crates(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree {
        let Some((own, _)) = path.strip_prefix("shards/").and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        let is_code = path.ends_with(".rs");
        let text = if is_code { split(text).0 } else { text.clone() };
        if !is_code && !path.ends_with("Cargo.toml") {
            continue;
        }
        // The package itself is followed by something other than the rest of a longer name.
        let names_root = text.match_indices("waterwheel").any(|(at, name)| {
            let (before, after) = (text[..at].chars().next_back(), &text[at + name.len()..]);
            let longer = after.starts_with(['-', '_']) || after.starts_with(is_word);
            !longer && (after.starts_with("::") || before.is_none_or(|letter| letter == '\n'))
        });
        if names_root && own != ABOVE_SRC {
            complaints.push(format!("{path}: shards/ never depends on src/"));
        }
        if own != ABOVE_SRC && text.contains("waterwheel-fuzz") {
            complaints.push(format!("{path}: nothing depends on the fuzz targets"));
        }
        for other in REACTORS.iter().filter(|other| **other != own && REACTORS.contains(&own)) {
            if text.contains(&format!("waterwheel-{other}")) || text.contains(&format!("waterwheel_{other}"))
            {
                complaints.push(format!("{path}: reactor {own} imports reactor {other}"));
            }
        }
        if own == "reactor" && text.lines().any(|line| line.starts_with("waterwheel-")) {
            complaints.push(format!("{path}: the seam depends on nothing of ours"));
        }
    }
    complaints
}

fn length(tree: &Tree) -> Vec<String> {
    const OWN: &str = "examples/own_reactor/";
    // What runs the reactor, and what holds it to the laws, is no part of it.
    let around = ["main.rs", "laws.rs"];
    let (mut sizes, mut own) = (Vec::new(), 0);
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let (lines, example) = (text.lines().count(), path.strip_prefix("examples/"));
        let cap = if example.is_some_and(|file| !file.contains('/')) { EXAMPLE_LINES_MAX } else { LINES_MAX };
        sizes.push((path.as_str(), lines, cap));
        own += if path.strip_prefix(OWN).is_some_and(|file| !around.contains(&file)) { lines } else { 0 };
    }
    sizes.push((OWN, own, OWN_REACTOR_LINES_MAX));
    let long = sizes.into_iter().filter(|(_, lines, cap)| lines > cap);
    long.map(|(path, lines, cap)| format!("{path} has {lines} lines; {cap} are the cap")).collect()
}

fn bans(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut ban = |path: &str, text: &str, needle: &str, why: &str| {
        for (number, line) in text.lines().enumerate() {
            let found = line.match_indices(needle).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !(needle.starts_with(is_word) && before.is_some_and(is_word))
            });
            if found {
                complaints.push(format!("{path}:{}: {needle} {why}", number + 1));
            }
        }
    };
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let (code, comments) = split(text);
        // Some needles are written in pieces: whoever searches for them finds offenders only, and not this file.
        ban(path, &code, concat!("#[", "ignore"), "hides a test");
        ban(path, &code, "allow(", "where expect(…, reason) says why");
        for mark in ["TODO", "FIXME", "XXX", "HACK"] {
            ban(path, &comments, mark, "leaves work undone");
        }
    }
    for (path, code) in code_outside_tests(tree) {
        for needle in [".unwrap()", "todo!", "unimplemented!", "dbg!"] {
            ban(&path, &code, needle, "outside tests");
        }
        let is_program = path.starts_with("src/bin/") || path.starts_with("src/cli/");
        if path.starts_with("src/") && !is_program {
            ban(&path, &code, "process::exit", "in a library");
        }
        if path.starts_with("src/") {
            for needle in ["println!", "eprintln!", "print!", "eprint!"] {
                ban(&path, &code, needle, "panics where the output is closed");
            }
        }
    }
    complaints
}

fn unsafety(tree: &Tree) -> Vec<String> {
    let due = |path: &str| match path.split('/').collect::<Vec<_>>()[..] {
        ["src", "lib.rs"] | ["src", "bin", _] => true,
        ["shards", own, "src", "lib.rs"] => !UNSAFE_CRATES.contains(&own),
        ["examples", file] => file.ends_with(".rs"),
        _ => false,
    };
    let without = |text: &str| !split(text).0.contains("#![forbid(unsafe_code)]");
    let roots = tree.iter().filter(|(path, text)| due(path) && without(text));
    roots.map(|(path, _)| format!("{path} lacks #![forbid(unsafe_code)]")).collect()
}

fn top_level(tree: &Tree) -> Vec<String> {
    let names: BTreeSet<&str> = tree.keys().filter_map(|path| path.split('/').next()).collect();
    let good = |name: &str| TOP.contains(&name) || name.starts_with('.') || name.starts_with("LICENSE-");
    names
        .into_iter()
        .filter(|name| !good(name))
        .map(|name| format!("{name} has no place at the top level"))
        .collect()
}

fn variables(tree: &Tree) -> Vec<String> {
    let Some(readme) = tree.get("README.md") else { return Vec::new() };
    let known = Knob::ALL.map(Knob::variable);
    let missing = known.iter().filter(|name| {
        let rows = readme.lines().filter(|line| line.starts_with('|'));
        !rows.flat_map(|line| line.split('`')).any(|part| part == **name)
    });
    let missing = missing.map(|name| format!("README.md's table lacks {name}"));
    let named = readme.match_indices("WATERWHEEL_").map(|(at, _)| word(&readme[at..]));
    let unknown: BTreeSet<String> = named.filter(|name| !known.contains(&name.as_str())).collect();
    missing.chain(unknown.into_iter().map(|name| format!("README.md names {name}, which is none"))).collect()
}

/// A variable that is read elsewhere is a knob that nobody documents or checks.
fn other_variables(tree: &Tree) -> Vec<String> {
    let code = code_outside_tests(tree).into_iter();
    code.filter(|(path, _)| path.starts_with("src/") && path != "src/runtime/config.rs")
        .filter(|(_, code)| ["env::var(", "env::var_os(", "env::vars"].iter().any(|call| code.contains(call)))
        .map(|(path, _)| format!("{path} reads the environment, which is config.rs's work"))
        .collect()
}

fn machine_paths(tree: &Tree) -> Vec<String> {
    // Joined here, so that this file does not contain what it looks for.
    let mut places = ["work/", "home/", "root/", "Users/"].map(|place| format!("/{place}")).to_vec();
    places.push(format!("/{}", "tmp/ww"));
    let mut complaints = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.contains('.') || path.ends_with("Dockerfile")) {
        for (number, line) in text.lines().enumerate() {
            let starts = |at: usize| {
                !line[..at]
                    .ends_with(|letter: char| is_word(letter) || matches!(letter, '/' | '.' | '-' | '}'))
            };
            if places.iter().any(|place| line.match_indices(place).any(|(at, _)| starts(at))) {
                complaints.push(format!("{path}:{}: a path of one machine", number + 1));
            }
        }
    }
    complaints
}

fn registry(tree: &Tree) -> Vec<String> {
    let Some(lock) = tree.get("Cargo.lock") else { return Vec::new() };
    let sources: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    let public = "\"registry+https://github.com/rust-lang/crates.io-index\"";
    let others = sources.into_iter().filter(|source| *source != public);
    others.map(|source| format!("Cargo.lock takes a crate from {source}")).collect()
}

/// A planted bug whose place has changed: its patch is looked for as a whole hunk, line by line.
fn patches(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, patch) in tree.iter().filter(|(path, _)| path.ends_with(".patch")) {
        for file in patch.split("\n+++ b/").skip(1) {
            let file = file.split("\ndiff --git").next().unwrap_or(file);
            let (name, hunks) = file.split_once('\n').unwrap_or((file, ""));
            let code = tree.get(name).map_or("", String::as_str);
            for hunk in hunks.split("\n@@ ").map(|hunk| hunk.trim_start_matches("@@ ")) {
                let old = hunk.lines().skip(1).filter_map(|line| line.strip_prefix([' ', '-']));
                if !code.contains(&old.collect::<Vec<_>>().join("\n")) {
                    complaints.push(format!("{path} does not apply to {name} any more"));
                }
            }
        }
    }
    complaints
}

// ---- reading Rust

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The word at the start of a text.
fn word(text: &str) -> String {
    text.chars().take_while(|letter| is_word(*letter)).collect()
}

/// The code of each Rust file that is no test, without comments, texts, and `#[cfg(test)]` items.
fn code_outside_tests(tree: &Tree) -> Vec<(String, String)> {
    let manifests = tree.iter().filter(|(path, _)| path.ends_with("Cargo.toml"));
    // A test target, `path = "src/…"` after `[[test]]`, is named from its package's directory.
    let mut tests: BTreeSet<String> = manifests
        .flat_map(|(manifest, text)| {
            let directory = manifest.trim_end_matches("Cargo.toml");
            let targets = text.split("[[").filter(|part| part.starts_with("test]]"));
            let paths = targets.flat_map(|part| part.lines().filter_map(|line| line.strip_prefix("path = ")));
            // A `main.rs` takes the directory that it lies in along.
            let whole = |path: &str| path.trim_matches('"').trim_end_matches("/main.rs").to_owned();
            paths.map(move |path| format!("{directory}{}", whole(path)))
        })
        .collect();
    let mut outside = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let (code, modules) = without_test_items(&split(text).0);
        let file = path.trim_end_matches(".rs");
        let directory = match file.rsplit_once('/') {
            Some((directory, "mod" | "lib" | "main")) => directory,
            _ => file,
        };
        tests.extend(modules.into_iter().map(|module| format!("{directory}/{module}")));
        outside.push((path.clone(), code));
    }
    let is_test = |path: &str| {
        let module =
            |test: &String| path.strip_prefix(test.as_str()).is_some_and(|rest| rest.starts_with(['.', '/']));
        tests.contains(path) || tests.iter().any(module) || path.split('/').any(|part| part == "tests")
    };
    outside.retain(|(path, _)| !is_test(path));
    outside
}

/// The code without its `#[cfg(test)]` items, and the names of modules among them that are files of their own.
fn without_test_items(code: &str) -> (String, Vec<String>) {
    let (mut rest, mut kept, mut modules) = (code, String::new(), Vec::new());
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| rest.find(mark)).min() {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let head = item.find(['{', ';']).unwrap_or(item.len());
        let end = if item[head..].starts_with('{') { head + block(&item[head..]) } else { head };
        if item[head..].starts_with(';')
            && let Some((_, name)) = item[..head].rsplit_once("mod ")
        {
            modules.push(name.trim().to_owned());
        }
        // Lines are counted later.
        kept.extend(item[..end].chars().filter(|letter| *letter == '\n'));
        rest = item.get(end..).unwrap_or_default();
    }
    kept.push_str(rest);
    (kept, modules)
}

/// The length of the block that a text starts with.
fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Splits Rust into its code and its comments, each with blanks where the other, or a text in quotes, stands.
fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let previous = code.chars().next_back();
        let (length, is_comment) = match letter {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), true),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), true),
            '"' => (quoted(rest), false),
            'r' if !previous.is_some_and(|before| is_word(before) && !matches!(before, 'b' | 'c')) => {
                (raw(rest), false)
            }
            '\'' => (letter_in_quotes(rest), false),
            _ => (0, false),
        };
        let (taken, after) = rest.split_at(if length == 0 { letter.len_utf8() } else { length });
        let blank = |keep: bool| taken.chars().map(move |one| if keep || one == '\n' { one } else { ' ' });
        code.extend(blank(length == 0));
        comments.extend(blank(is_comment));
        rest = after;
    }
    (code, comments)
}

/// The length of a text in quotes, escapes included.
fn quoted(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw text, `r"…"` or `r#"…"#`; 0 if this is none.
fn raw(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|letter| *letter == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let (start, close) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
    text[start..].find(&close).map_or(text.len(), |end| start + end + close.len())
}

/// The length of a character in quotes; 0 if the quote begins a lifetime.
fn letter_in_quotes(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |end| 3 + end + 1),
        _ => letters.next().filter(|(_, third)| *third == '\'').map_or(0, |(at, _)| at + 1),
    }
}

// ---- the rules themselves are tested

fn planted(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn each_rule_finds_what_was_planted() {
    let long = "\n".repeat(LINES_MAX + 1);
    let machine = format!("// see /{}", "home/me/notes");
    let cases: &[(Rule, &str, &str)] = &[
        (floors, "src/shard/task.rs", "use crate::net::Endpoint;"),
        (floors, "src/shard/task.rs", "fn f() { let x = crate::runtime::Config::default(); }"),
        (floors, "src/net/pump.rs", "use crate::{net::Source, shard::{Task, Timer}, proxy};"),
        (floors, "src/net/pump.rs", "use super::super::runtime;"),
        (floors, "src/net/mod.rs", "use super::runtime;"),
        (floors, "src/net/http1/head.rs", "use super::super::super::runtime;"),
        (floors, "src/load/run.rs", "use crate::proxy::Proxy;"),
        (floors, "src/net/pump.rs", "use crate::Shard;"),
        (floors, "src/misc.rs", ""),
        (floors, "src/util/mod.rs", ""),
        (crates, "shards/os/src/lib.rs", "use waterwheel::net::Endpoint;"),
        (crates, "shards/os/Cargo.toml", "[dependencies]\nwaterwheel = { path = \"../..\" }\n"),
        (crates, "shards/os/Cargo.toml", "[dependencies]\nwaterwheel.workspace = true\n"),
        (crates, "shards/epoll/Cargo.toml", "waterwheel-glommio.workspace = true\n"),
        (crates, "shards/epoll/src/lib.rs", "use waterwheel_glommio::Glommio;"),
        (crates, "shards/reactor/Cargo.toml", "waterwheel-os.workspace = true\n"),
        (crates, "shards/os/Cargo.toml", "waterwheel-fuzz = { path = \"../fuzz\" }\n"),
        (length, "src/net/pump.rs", &long),
        (length, "examples/hello.rs", &long[..=EXAMPLE_LINES_MAX]),
        (length, "examples/own_reactor/reactor.rs", &long[..=OWN_REACTOR_LINES_MAX]),
        (bans, "src/net/pump.rs", "fn f() { x.unwrap(); }"),
        (bans, "src/net/pump.rs", concat!("#[cfg(test)]\nmod tests { }\nfn f() { to", "do!() }")),
        (bans, "src/net/pump.rs", concat!("#[test]\n#[", "ignore = \"slow\"]\nfn f() {}")),
        (bans, "src/net/pump.rs", "#[allow(dead_code)]\nfn f() {}"),
        (bans, "src/net/pump.rs", "#![allow(dead_code)]"),
        (bans, "src/net/pump.rs", "// TODO: mend this"),
        (bans, "src/net/pump.rs", "fn f() { std::process::exit(1) }"),
        (bans, "src/cli/mod.rs", "fn f() { println!(\"x\") }"),
        (bans, "src/net/pump.rs", "fn f<'a>(x: &'a str) { let c = '\"'; x.unwrap(); let d = '\"'; }"),
        (bans, "src/net/pump.rs", "fn f() { let c = r#\"\" \"#; x.unwrap(); let c = '\\''; }"),
        (unsafety, "src/lib.rs", "//! #![forbid(unsafe_code)]"),
        (unsafety, "src/bin/waterwheel.rs", "fn main() {}"),
        (unsafety, "shards/reactor/src/lib.rs", ""),
        (unsafety, "examples/hello.rs", "fn main() {}"),
        (top_level, "notes.md", ""),
        (top_level, "scripts/build.sh", ""),
        (variables, "README.md", "WATERWHEEL_CORES and so on"),
        (other_variables, "src/net/pump.rs", "fn f() { std::env::var(\"X\"); }"),
        (machine_paths, "src/net/pump.rs", &machine),
        (patches, "src/a.patch", "--- a/src/a.rs\n+++ b/src/a.rs\n@@ -1,2 +1,2 @@\n fn f() {\n-}\n+x }\n"),
        (registry, "Cargo.lock", "source = \"registry+https://example.org/index\"\n"),
    ];
    for (rule, path, text) in cases {
        assert!(!rule(&planted(&[(path, text)])).is_empty(), "nobody complained about {path}: {text}");
    }
}

#[test]
fn no_rule_complains_about_what_is_right() {
    let table: String = Knob::ALL.map(|knob| format!("| `{knob}` | … |\n")).concat();
    let tree = planted(&[
        ("Cargo.toml", "[[test]]\nname = \"laws\"\npath = \"src/mesh/laws.rs\"\n\n[profile.release]\n"),
        ("README.md", &table),
        ("src/lib.rs", "#![forbid(unsafe_code)]\npub use shard::Shard;"),
        ("src/mesh/laws.rs", "use waterwheel::runtime::Runtime;\nfn f() { x.unwrap(); println!(\"x\") }"),
        ("src/mesh/mod.rs", "//! See [`crate::net`].\n#[cfg(test)]\nmod oracle;\nuse crate::shard::Shard;"),
        ("src/mesh/oracle.rs", "use crate::net::Endpoint;\nfn f() { x.unwrap(); }"),
        (
            "src/net/pump.rs",
            "use crate::{mesh, shard::Shard};\nuse super::super::steer;\nuse super::runtime;",
        ),
        (
            "src/net/a.rs",
            "fn f() { let s = \".unwrap() {\"; }\n#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }",
        ),
        ("src/net/b.rs", "/// x.unwrap() /* \" */\nfn f() { reprint!(1); x.unwrap_or(1) }"),
        ("shards/os/src/lib.rs", "use waterwheel_reactor::Address; // waterwheel::net"),
        ("shards/os/Cargo.toml", "name = \"waterwheel-os\"\nwaterwheel-reactor.workspace = true\n"),
        (
            "shards/fuzz/Cargo.toml",
            "name = \"waterwheel-fuzz\"\n[dependencies]\nwaterwheel = { path = \"../..\" }\n",
        ),
        ("shards/fuzz/src/target.rs", "use waterwheel::net::Endpoint;"),
        (
            "src/b.patch",
            "--- a/src/net/b.rs\n+++ b/src/net/b.rs\n@@ -1 +1 @@ mod\n-/// x.unwrap() /* \" */\n+//\n",
        ),
        ("deploy/unit.service", "ProtectHome=yes\nExecStart=/usr/bin/waterwheel\n"),
    ]);
    for (name, rule) in RULES {
        assert_eq!(rule(&tree), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn complaints_name_the_line() {
    let text = "/* one\ntwo */\n#[cfg(test)]\nmod tests {\n}\nfn f() { x.unwrap(); }\n";
    assert_eq!(bans(&planted(&[("src/net/pump.rs", text)])), ["src/net/pump.rs:6: .unwrap() outside tests"]);
}
