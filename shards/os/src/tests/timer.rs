use crate::sleep_exactly;

#[test]
fn exact_sleep_concerns_the_calling_thread_alone() {
    let slack = || rustix::thread::current_timer_slack().unwrap();
    let before = slack();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep_exactly().unwrap();
            assert_eq!(slack(), 1);
        });
    });
    assert_eq!(slack(), before);
}
