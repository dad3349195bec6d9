//! Measures Waterwheel beside others. See the crate's documentation for the method.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use waterwheel_versus::asked::{Asked, USAGE, What};
use waterwheel_versus::cpus::Cpus;
use waterwheel_versus::{cost, latency, memory, report, subjects, trial};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| ["help", "--help", "-h"].contains(&&**argument)) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let asked = match Asked::read(&arguments) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("versus: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error:#} (seed {})", asked.seed);
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Asked) -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "a slow build measures nothing: run it with --release");
    waterwheel_versus::more_files()?;
    let cpus = Cpus::choose()?;
    let found = subjects::find(asked)?;
    cpus.pin_generator()?;
    eprintln!("seed {}, subjects on CPU {}, generator on CPU {}", asked.seed, cpus.subject, cpus.generator);
    found.notes.iter().for_each(|note| eprintln!("{note}"));
    for subject in &found.subjects {
        trial::subject(subject, asked.of, cpus)?;
    }
    let mut markdown = report::environment(&found.subjects, asked.waterwheel.as_deref(), asked.seed);
    found.notes.iter().for_each(|note| markdown.extend(["* ", note, "\n"]));
    for workload in &asked.workloads {
        let table = match asked.what {
            What::Cost => cost::table(asked, &found.subjects, *workload, cpus)?,
            What::Latency => latency::table(asked, &found.subjects, *workload, cpus)?,
            What::Memory => memory::table(asked, &found.subjects, *workload, cpus)?,
        };
        println!("\n{}", table.text());
        markdown.extend(["\n", &table.markdown()]);
        // After each table, so that a later failure does not take it along.
        if let Some(file) = &asked.write {
            std::fs::write(file, &markdown).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(())
}
