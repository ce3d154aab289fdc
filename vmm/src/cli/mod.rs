//! The command line: one file per subcommand. Names, options and exit codes are a contract (docs/interface.md).

mod bookmark;
mod chaos;
mod diff;
pub mod doctor;
mod exit;
mod generate;
mod guest;
mod info;
mod live;
mod log;
mod ls;
mod output;
mod pack;
pub(crate) mod parse;
mod progress;
mod record;
mod recorded;
mod replay;
mod run;
mod seek;
mod selftest;
mod shrink;
mod snapshot;
mod survey;
mod timeline;
mod unpacked;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Failure;

#[derive(Parser)]
#[command(name = "scribe-vmm", version, about, long_about = None, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  scribe-vmm doctor\n  scribe-vmm record --image guest.img -- /bin/demo\n  \
                        scribe-vmm replay"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    Record(record::RecordArgs),
    Replay(replay::ReplayArgs),
    Live(live::LiveCommand),
    Chaos(chaos::ChaosArgs),
    Bookmark(bookmark::BookmarkArgs),
    Snapshot(snapshot::SnapshotArgs),
    Info(info::InfoArgs),
    Ls(ls::LsArgs),
    Verify(verify::VerifyArgs),
    Shrink(shrink::ShrinkArgs),
    Log(log::LogArgs),
    Timeline(timeline::TimelineArgs),
    Diff(diff::DiffArgs),
    Pack(pack::PackArgs),
    Unpack(pack::UnpackArgs),
    Doctor(doctor::DoctorArgs),
    Man(generate::ManArgs),
    Completions(generate::CompletionsArgs),
}

/// Parses the command line, does what it says, and reports on stderr.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let code = u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
            // Help is no error; and under --return a wrong option must not look like the guest's status.
            let own = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--return");
            return ExitCode::from(if own && code != 0 { exit::under_return(code) } else { code });
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SCRIBE_VMM_LOG").unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let code_for_errors = match &cli.command {
        Command::Run(args) => args.error_code(),
        Command::Record(args) => args.error_code(),
        _ => |code| code,
    };
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Record(args) => record::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Live(args) => live::run(args),
        Command::Chaos(args) => chaos::run(args),
        Command::Bookmark(args) => bookmark::run(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Info(args) => info::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Verify(args) => verify::run(args),
        Command::Shrink(args) => shrink::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Log(args) => log::run(args),
        Command::Pack(args) => pack::pack(&args),
        Command::Unpack(args) => pack::unpack(&args),
        Command::Man(args) => generate::man(&args),
        Command::Completions(args) => Ok(generate::completions(&args)),
        Command::Timeline(args) => timeline::run(args),
        Command::Doctor(args) => {
            let selftest = |report: &_| selftest::run(&args.image, report);
            doctor::run(&args, Some(&selftest)).map_err(Failure::from)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            say!("{}", failure.message());
            ExitCode::from(code_for_errors(failure.code()))
        }
    }
}
