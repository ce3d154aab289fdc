//! `scribe-vmm man` and `scribe-vmm completions`: what the shell knows of this program, made from the same definitions as
//! its options.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Failure;
use super::{Cli, guest};

/// Write the manual pages, one for each subcommand
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm man | man -l -\n  scribe-vmm man -o ~/.local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write scribe-vmm.1 and a page for each subcommand into this directory [default: the first to standard output]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Print a shell's completion script
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scribe-vmm completions bash > ~/.local/share/bash-completion/completions/scribe-vmm\n  \
                        scribe-vmm completions zsh > ~/.zfunc/_scribe-vmm\n  \
                        scribe-vmm completions fish > ~/.config/fish/completions/scribe-vmm.fish"
)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn man(args: &ManArgs) -> Result<u8, Failure> {
    let command = Cli::command();
    let Some(directory) = &args.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("the manual page")?;
        print(&page);
        return Ok(0);
    };
    let failed = || format!("{}: the manual pages cannot be written", guest::show(directory));
    std::fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(command, directory).with_context(failed)?;
    Ok(0)
}

pub(super) fn completions(args: &CompletionsArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "scribe-vmm", &mut script);
    print(&script);
    0
}

/// To standard output; a reader that has gone away is no error.
fn print(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &clap::Command, check: &mut dyn FnMut(&clap::Command)) {
        command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(|sub| {
            check(sub);
            each(sub, check);
        });
    }

    #[test]
    fn help_ends_with_examples() {
        let mut count = 0;
        each(&Cli::command(), &mut |command| {
            count += 1;
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(help.starts_with("Examples:\n  scribe-vmm "), "{name}: {help}");
            assert!(help.lines().skip(1).all(|line| line.starts_with("  ")), "{name}: {help}");
        });
        assert!(count >= 8, "{count}");
    }

    #[test]
    fn pages_and_scripts_name_every_subcommand() {
        let directory = tempfile::tempdir().unwrap();
        man(&ManArgs { output: Some(directory.path().join("man1")) }).unwrap();
        let mut bash = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "scribe-vmm", &mut bash);
        let bash = String::from_utf8(bash).unwrap();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let page = std::fs::read_to_string(directory.path().join(format!("man1/scribe-vmm-{name}.1")));
            assert!(page.unwrap().contains(".SH SYNOPSIS"), "{name}");
            assert!(bash.contains(name), "{name}");
        }
    }
}
