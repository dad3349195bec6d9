//! Settings from text, good and bad.

use super::*;
use std::os::unix::ffi::OsStrExt;

fn from(name: &str, value: &str) -> Result<Config, ConfigError> {
    Config::from_vars([(name, value)])
}

#[test]
fn every_variable_is_read() {
    let config = Config::from_vars([
        ("WATERWHEEL_CORES", "2"),
        ("WATERWHEEL_CPUS", "3,1"),
        ("WATERWHEEL_REACTOR", "glommio"),
        ("WATERWHEEL_BLOCKING_THREADS", "3"),
        ("WATERWHEEL_STEER", "source"),
        ("WATERWHEEL_SPIN_US", "7"),
        ("WATERWHEEL_STALL_MS", "20"),
        ("WATERWHEEL_DRAIN_S", "5"),
        ("WATERWHEEL_LOG", "debug"),
        ("WATERWHEEL_STEER_SEED", "0xbeef"),
        ("WATERWHEEL_STEER_PROGRAM", "off"),
        ("WATERWHEEL_ON_FAILURE", "escalate"),
        ("WATERWHEEL_RESTARTS", "9"),
    ])
    .unwrap();
    let cpus = CpuList::try_from(vec![3, 1]).unwrap();
    let expected = Config::default()
        .cores(2)
        .cpus(cpus)
        .reactor("glommio")
        .blocking_threads(3)
        .steer(Mode::Source)
        .spin(Duration::from_micros(7))
        .stall(Some(Duration::from_millis(20)))
        .drain(Duration::from_secs(5))
        .log("debug")
        .steer_seed(0xbeef)
        .steer_program(false)
        .on_failure(OnFailure::Escalate)
        .supervision(Supervision { restarts: 9, ..Supervision::default() });
    let unsigned = |config: Config| {
        let cores = config.cores.map(|given| given.value);
        let cpus = config.cpus.map(|given| given.value);
        let steering = (config.steer, config.steer_seed, config.steer_program);
        let steering = (steering, config.on_failure, config.supervision);
        let rest =
            (steering, config.blocking_threads, config.spin, config.stall, config.drain, config.log.value);
        (cores, cpus, config.reactor.value, rest)
    };
    assert_eq!(unsigned(config), unsigned(expected));
}

#[test]
#[cfg(feature = "uring")]
fn what_uring_does_without_is_read() {
    use crate::runtime::{UringFeature, UringFeatures};
    let off = UringFeatures::NONE.with(UringFeature::Multishot).with(UringFeature::MessageRing);
    let config = from("WATERWHEEL_URING_OFF", "msg_ring,multishot").unwrap();
    assert_eq!(config, Config::default().uring_off(off));
    assert_ne!(config, Config::default());
}

#[test]
fn an_empty_environment_gives_the_defaults() {
    assert_eq!(Config::from_vars([("HOME", "/root"), ("WATER", "x")]), Ok(Config::default()));
}

#[test]
fn nonsense_is_one_line_with_name_value_fault_and_remedy() {
    for (knob, values) in [
        (Knob::Cores, &["0", "", "two", "-1", "1025", "1.5", "Auto"][..]),
        (Knob::Cpus, &["", "a", "0-", "3-1", "0,0", "1024"]),
        (Knob::UringOff, &["everything", "buffers;skip", "Buffers"]),
        (Knob::Steer, &["", "hash", "Flow", "cpus", "flow,least"]),
        (Knob::SteerProgram, &["", "yes", "On"]),
        (Knob::OnFailure, &["", "panic", "Restart"]),
        (Knob::Restarts, &["", "-1", "1001"]),
        (Knob::SpinUs, &["", "1ms", "-1", "1000001"]),
        (Knob::StallMs, &["", "x", "3600001"]),
        (Knob::DrainS, &["", "30s", "86401"]),
        (Knob::StopDelayS, &["", "5s", "86401"]),
        (Knob::Log, &["", "loud", "a\nb=info"]),
        (Knob::SteerSeed, &["", "random", "4294967296", "0x"]),
    ] {
        for value in values {
            let error = from(knob.variable(), value).unwrap_err();
            assert!(matches!(error, ConfigError::Malformed { .. }), "{error:?}");
            let line = error.to_string();
            assert!(line.starts_with(&format!("{knob}={value:?}: ")), "{line}");
            assert!(line.ends_with(&format!("; allowed: {}", knob.allowed())), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}

#[test]
fn zero_cores_are_refused_and_change_nothing() {
    let mut config = Config::default().cores(3);
    config.set(Knob::Cores, "--cores", "0").unwrap_err();
    assert_eq!(config, Config::default().cores(3));
}

#[test]
fn an_unknown_variable_is_not_ignored() {
    let line = from("WATERWHEEL_CORE", "4").unwrap_err().to_string();
    let start = r#"WATERWHEEL_CORE="4": no such variable, did you mean WATERWHEEL_CORES?; allowed: WATERWHEEL_CORES, "#;
    assert!(line.starts_with(start), "{line}");
    let line = from("WATERWHEEL_THREADPOOL", "4").unwrap_err().to_string();
    assert!(line.starts_with(r#"WATERWHEEL_THREADPOOL="4": no such variable; allowed: "#), "{line}");
    assert!(matches!(from("WATERWHEEL_", ""), Err(ConfigError::Unknown { .. })));
}

#[test]
fn a_variables_name_cannot_begin_another_line_of_the_log() {
    let line = from("WATERWHEEL_X\nerror: all is lost", "1").unwrap_err().to_string();
    assert!(line.starts_with(r#"WATERWHEEL_X\nerror: all is lost="1": no such variable; "#), "{line}");
    let long = from(&format!("WATERWHEEL_{}", "X".repeat(10_000)), "1").unwrap_err().to_string();
    assert!(long.len() < 1_000, "{long}");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let name = OsStr::new("WATERWHEEL_REACTOR");
    let line = Config::from_vars([(name, OsStr::from_bytes(b"ep\xffoll"))]).unwrap_err().to_string();
    assert!(line.contains("not text in UTF-8"), "{line}");
    let name = OsStr::from_bytes(b"WATERWHEEL_\xff");
    assert!(matches!(Config::from_vars([(name, name)]), Err(ConfigError::Unknown { .. })));
}

#[test]
fn a_kubernetes_service_of_the_same_name_does_no_harm() {
    let set = [
        "WATERWHEEL_SERVICE_HOST",
        "WATERWHEEL_SERVICE_PORT",
        "WATERWHEEL_SERVICE_PORT_HTTP",
        "WATERWHEEL_PORT",
        "WATERWHEEL_PORT_80_TCP",
        "WATERWHEEL_PORT_80_TCP_PROTO",
        "WATERWHEEL_PORT_53_UDP_ADDR",
        "WATERWHEEL_PROXY_SERVICE_HOST",
        "WATERWHEEL_PROXY_PORT_8080_TCP_PORT",
    ];
    assert_eq!(Config::from_vars(set.map(|name| (name, "tcp://10.0.0.1:80"))), Ok(Config::default()));
    for typo in ["WATERWHEEL_PORTS", "WATERWHEEL_PORT_X", "WATERWHEEL_CORES_HOST"] {
        assert!(from(typo, "1").is_err(), "{typo}");
    }
}

#[test]
fn a_flag_overrides_and_is_named_in_its_errors() {
    let mut config = from("WATERWHEEL_CORES", "3").unwrap();
    config.set(Knob::Cores, "--cores", "auto").unwrap();
    assert_eq!(config, Config::default());
    let line = config.set(Knob::Steer, "--steer", "x").unwrap_err().to_string();
    assert_eq!(line, r#"--steer="x": no such steering mode; allowed: flow, source, kernel, cpu, least, key"#);
}

#[test]
fn cores_that_contradict_cpus_are_refused() {
    let vars = [("WATERWHEEL_CORES", "3"), ("WATERWHEEL_CPUS", "0-1")];
    let line = Config::from_vars(vars).unwrap().check().unwrap_err().to_string();
    assert_eq!(
        line,
        r#"WATERWHEEL_CORES="3": contradicts WATERWHEEL_CPUS="0-1", which names 2 CPUs; allowed: 2, auto, or one of the two alone"#
    );
    for agreeing in ["2", "auto"] {
        let vars = [("WATERWHEEL_CORES", agreeing), ("WATERWHEEL_CPUS", "0-1")];
        assert_eq!(Config::from_vars(vars).unwrap().check(), Ok(()));
    }
}

#[test]
fn methods_are_checked_as_text_is() {
    for bad in [Config::default().cores(0), Config::default().cores(1025), Config::default().log("loud")] {
        let line = bad.check().unwrap_err().to_string();
        assert!(line.starts_with("Config::"), "{line}");
    }
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn zero_turns_stall_reports_off() {
    assert_eq!(from("WATERWHEEL_STALL_MS", "0").unwrap().stall, None);
}

#[test]
fn steps_that_are_named_are_set_and_nonsense_is_told() {
    let seconds = Duration::from_secs;
    let steps = from("WATERWHEEL_STEPS_S", "after-stop=0,before-start=86400").unwrap().step_times;
    assert_eq!((steps.before_start, steps.after_stop), (seconds(86_400), Duration::ZERO));
    assert_eq!(
        StepTimes { before_start: seconds(30), after_stop: seconds(10), ..steps },
        StepTimes::default()
    );
    assert_eq!(from("WATERWHEEL_STEPS_S", "").unwrap(), Config::default());
    let mut config = from("WATERWHEEL_STEPS_S", "before-stop=1,during-start=2,after-start=3").unwrap();
    config.set(Knob::StepsS, "--steps-s", "before-stop=4").unwrap();
    let StepTimes { before_stop, during_start, after_start, .. } = config.step_times;
    assert_eq!((before_stop, during_start, after_start), (seconds(4), seconds(2), seconds(3)));
    for (text, wrong) in [
        ("before-start", r#""before-start" is not a step and its seconds"#),
        ("before-start=1,", r#""" is not a step and its seconds"#),
        ("start=1", r#""start" is no step whose time can be set"#),
        (
            "during-stop=1",
            r#""during-stop" is no step whose time can be set, but the drain, which has its own"#,
        ),
        ("before-stop=1s", "before-stop: not a whole number"),
        ("before-stop=86401", "before-stop: more than 86400"),
        ("before-stop=1,before-stop=1", "before-stop is named twice"),
    ] {
        let line = config.set(Knob::StepsS, "--steps-s", text).unwrap_err().to_string();
        let told = format!("--steps-s={text:?}: {wrong}; allowed: {}", Knob::StepsS.allowed());
        assert_eq!(line, told);
    }
    assert_eq!(config.step_times.before_stop, seconds(4), "nothing was changed by halves");
}
