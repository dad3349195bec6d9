//! The file of `waterwheel proxy --config`.

use waterwheel::proxy::config::File;
use waterwheel::runtime::Config;

/// It is read, or everything that is wrong with it is told, each in a line that names the file; what is read can be checked
/// and configures a runtime; and reading it twice gives the same.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match File::parse("a.toml", &text) {
        Err(faults) => {
            assert!(!faults.all.is_empty(), "refused for nothing");
            for fault in &faults.all {
                let line = fault.to_string();
                assert!(line.starts_with("a.toml:") && !line.chars().any(char::is_control), "{line:?}");
            }
        }
        Ok(file) => {
            assert!(!file.proxies.is_empty(), "a file without a proxy");
            let again = File::parse("a.toml", &text).expect("it was read before");
            assert_eq!(file.named(), again.named());
            again.check_change(&file).expect("nothing has changed");
            file.configure(&mut Config::default()).expect("its settings were read");
            if let Err(faults) = file.check(2) {
                assert!(faults.to_string().starts_with("a.toml:"), "{faults}");
            }
        }
    }
}
