//! What a simulated model is told to do, it does.

use super::*;

#[test]
fn options_are_read_and_what_there_is_not_is_refused() {
    let sim: Sim = "sim://?step_ms=0&size=128&load_ms=7&memory=2KiB".parse().unwrap();
    let load = Duration::from_millis(7);
    let room = usize::MAX;
    let expected =
        Sim { step: Duration::ZERO, size: 128, load, memory: 2048, room, together: 1, failure: None };
    assert_eq!(sim, expected);
    assert!("sim://".parse::<Sim>().is_ok());
    for (name, failure) in [
        ("panic", Failure::Panic),
        ("out_of_memory", Failure::OutOfMemory),
        ("non_finite", Failure::NonFinite),
        ("exit", Failure::Exit),
        ("device", Failure::Device),
        ("hang", Failure::Hang),
    ] {
        let sim: Sim = format!("sim://?fail={name}&fail_step=3").parse().unwrap();
        assert_eq!(
            sim.failure,
            Some(Fails {
                how: failure,
                step: 3,
                prompt: String::new(),
                times: Times::new(u32::MAX),
                after: None
            })
        );
    }
    for bad in ["sim://x", "sim://?size=63", "sim://?size=100", "sim://?step_ms=-1", "sim://?fail=no", "sim:"]
    {
        assert!(bad.parse::<Sim>().is_err(), "{bad}");
    }
}

#[test]
fn a_device_that_breaks_fails_every_step_from_then_on_and_a_failing_job_leaves_it_whole() {
    let spec = ImageSpec { steps: 4, ..ImageSpec::new("a", Source::Text { width: 64, height: 64 }) };
    let step = |sim: &Sim, mut job: SimPicture| sim.advance(&mut [&mut job]);
    let breaks: Sim = "sim://?step_ms=0&fail=device&fail_after=2".parse().unwrap();
    assert!(step(&breaks, breaks.begin_test(&spec)).is_ok());
    assert!(step(&breaks.clone(), breaks.begin(&spec)).is_ok());
    assert!(matches!(step(&breaks, breaks.begin(&spec)), Err(SimError::Device)));
    assert!(matches!(step(&breaks, breaks.begin_test(&spec)), Err(SimError::Device)));
    let once: Sim = "sim://?step_ms=0&fail=device&fail_after=0&fail_times=1".parse().unwrap();
    assert!(step(&once, once.begin_test(&spec)).is_err());
    assert!(step(&once, once.begin_test(&spec)).is_ok());
    let job: Sim = "sim://?step_ms=0&fail=device".parse().unwrap();
    assert!(step(&job, job.begin(&spec)).is_err());
    assert!(step(&job, job.begin_test(&spec)).is_ok());
}

#[test]
fn a_simulation_that_was_told_to_exit_ends_its_process_with_status_9() {
    const IN_CHILD: &str = "SD_TEST_SIM_EXITS";
    if std::env::var_os(IN_CHILD).is_some() {
        let sim: Sim = "sim://?step_ms=0&fail=exit&fail_step=2".parse().unwrap();
        let source = Source::Text { width: 64, height: 64 };
        let mut job =
            SimPicture { step: 0, total: 4, source, colour: Rgb([0; 3]), fails: true, is_test: false };
        sim.advance(&mut [&mut job]).unwrap();
        assert_eq!(job.step(), 1);
        sim.advance(&mut [&mut job]).unwrap();
        panic!("the process goes on");
    }
    let name = "models::sim::tests::a_simulation_that_was_told_to_exit_ends_its_process_with_status_9";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(IN_CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(EXIT_STATUS), "{child:?}");
}
