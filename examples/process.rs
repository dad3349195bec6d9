//! Child processes: a program that dies twice is kept running, and its output is shown line by line.
//!
//! `cargo run --example process`.
#![forbid(unsafe_code)]

use std::time::Duration;

use waterwheel::process::{Again, Command, Keep, Stdio};
use waterwheel::runtime::{Config, Runtime, Supervision};
use waterwheel::shard::Shard;

/// Counts its lives in a file, and does its work in the third one only.
const SCRIPT: &str = r#"
    life=$(cat lives 2>/dev/null || echo 1)
    echo $((life + 1)) > lives
    echo "life $life begins"
    [ "$life" -lt 3 ] && { printf 'life %s ends: no luck' "$life" >&2; exit 1; }
    echo "the work is done"
"#;

/// Runs a program to its end and has all that it wrote.
async fn run_once(shard: &Shard) -> anyhow::Result<()> {
    let output = shard.output_of(&Command::new("uname").argument("-s")).await?;
    println!("uname says {:?}, {}", String::from_utf8_lossy(&output.stdout).trim(), output.status);
    Ok(())
}

/// Talks with a program: its streams are halves of a connection.
async fn talk(shard: &Shard) -> anyhow::Result<()> {
    let command = Command::new("tr").arguments(["a-z", "A-Z"]).stdin(Stdio::Piped).stdout(Stdio::Piped);
    let mut child = shard.spawn_process(&command).await?;
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take());
    if let (Some(stdin), Some(stdout)) = (&mut stdin, &mut stdout) {
        stdin.write_all(b"slowly turns the wheel").await?;
        stdin.close().await?;
        let mut answer = [0; 22];
        stdout.read_exact(&mut answer).await?;
        println!("tr says {:?}", String::from_utf8_lossy(&answer));
    }
    println!("tr ended: {}", child.wait().await?);
    Ok(())
}

/// Keeps a program running until it has done its work.
async fn keep(shard: &Shard) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("waterwheel-process-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let pause = Duration::from_millis(50);
    let keep = Keep {
        again: Again::OnFailure,
        supervision: Supervision { restarts: 5, pause, ..Supervision::default() },
        ..Keep::new("worker")
    };
    let command = Command::new("/bin/sh").arguments(["-c", SCRIPT]).directory(&folder);
    let monitor = shard
        .keep_running_with(&command, keep, |line| println!("{} {}: {}", line.tag, line.stream, line.text));
    let kept = monitor.ended().await;
    std::fs::remove_dir_all(&folder)?;
    println!("worker: {:?}", kept?);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new(Config::from_env()?.cores(1))?;
    runtime.run(|shard| async move {
        run_once(&shard).await?;
        talk(&shard).await?;
        keep(&shard).await
    })?;
    Ok(())
}
