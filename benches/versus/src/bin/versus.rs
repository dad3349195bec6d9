//! Measures Waterwheel beside others. See the crate's documentation for the method.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use waterwheel_versus::asked::{Asked, USAGE, What};
use waterwheel_versus::cpus::Cpus;
use waterwheel_versus::report::Report;
use waterwheel_versus::subject::Subject;
use waterwheel_versus::{cost, latency, memory, subjects, trial};

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
    // All is found and tried before anything is measured, so that a long run does not end early.
    let mut found = Vec::new();
    for part in &asked.parts {
        if !found.iter().any(|(of, _)| *of == part.of) {
            found.push((part.of, subjects::find(asked, part.of)?));
        }
    }
    cpus.pin_generator()?;
    eprintln!("seed {}, subjects on CPU {}, generator on CPU {}", asked.seed, cpus.subject, cpus.generator);
    for (of, found) in &found {
        found.notes.iter().for_each(|note| eprintln!("{note}"));
        for subject in &found.subjects {
            trial::subject(subject, *of, cpus)?;
        }
    }
    let mut report = Report::new(asked, &found);
    for part in &asked.parts {
        report.part(part);
        let subjects = found.iter().filter(|(of, _)| *of == part.of).flat_map(|(_, found)| &found.subjects);
        let subjects: Vec<Subject> = subjects.cloned().collect();
        let table = match part.what {
            What::Cost => cost::table,
            What::Latency => latency::table,
            What::Memory => memory::table,
        };
        for workload in &part.workloads {
            let table = table(asked, &subjects, (part.of, *workload), cpus)?;
            println!("\n{}", table.text());
            report.add(&table);
            // After each table, so that a later failure does not take it along.
            if let Some(file) = &asked.write {
                let markdown = report.markdown();
                std::fs::write(file, markdown).with_context(|| format!("writing {}", file.display()))?;
            }
        }
    }
    if asked.parts.len() > 1 {
        println!("\n{}", report.summary());
    }
    Ok(())
}
