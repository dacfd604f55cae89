//! What shells and `man` know of keeper: completions and manual pages, made from the flags themselves.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, KeeperError};

/// The completions for a shell.
pub fn completions(shell: Shell) -> String {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    // In the script for bash clap_complete (4.6) calls the parts of a program whose name has a dash by two names, and finds
    // none of them.
    String::from_utf8_lossy(&script).replace("rbee__subcmd__keeper", "rbee__keeper")
}

/// Writes a page for each command into a folder.
///
/// # Errors
/// [`KeeperError::Output`]: the folder cannot be written.
pub fn manual(folder: &Path) -> Result<(), KeeperError> {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder));
    written.map_err(|source| KeeperError::Output { path: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_the_verbs() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            for word in ["rbee-keeper", "drain", "no-wait", "completions"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("man1");
        manual(&pages).unwrap();
        for page in ["rbee-keeper", "rbee-keeper-image-generate", "rbee-keeper-worker-drain"] {
            let text = std::fs::read_to_string(pages.join(format!("{page}.1"))).unwrap();
            assert!(text.contains(".TH"), "{page}");
        }
        assert!(!pages.join("rbee-keeper-help.1").exists());
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(matches!(manual(&folder.path().join("file")), Err(KeeperError::Output { .. })));
    }
}
