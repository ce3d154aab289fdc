//! Compares the soft CPU with the processor that this runs on: `fuzz-native --help`.

use clap::Parser;
use scribe_tests::fuzz::driver::{self, Options, Report};
use scribe_tests::fuzz::forms;
use scribe_tests::fuzz::generate::Modes;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};

/// Differential fuzzing of the soft CPU against this host's processor.
#[derive(Debug, Parser)]
struct Arguments {
    /// seed of all cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// number of the first case
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// cases to run
    #[arg(long, default_value_t = 20_000)]
    cases: u64,
    /// processes
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// mnemonics or forms that come in turn, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// 64, 32 or both
    #[arg(long, default_value = "both")]
    mode: String,
    /// instructions a case, at most
    #[arg(long, default_value_t = 8)]
    longest: u64,
    /// compare undefined flags too
    #[arg(long)]
    strict: bool,
    /// compare the processor with itself
    #[arg(long)]
    native_only: bool,
    /// differences that are made small and grouped, at most, by each process
    #[arg(long, default_value_t = 2000)]
    minimise: u64,
    /// print the forms and stop
    #[arg(long)]
    list_forms: bool,
    /// print how often each form was run
    #[arg(long)]
    coverage: bool,
    /// this part of so many
    #[arg(long, hide = true)]
    part: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("fuzz-native: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<bool> {
    let modes = match arguments.mode.as_str() {
        "64" => Modes::Long,
        "32" => Modes::Compatibility,
        "both" => Modes::Both,
        other => return Err(io::Error::other(format!("--mode {other}: not 64, 32 or both"))),
    };
    if arguments.list_forms {
        return list_forms();
    }
    let mut options = Options {
        seed: arguments.seed,
        first: arguments.first,
        cases: arguments.cases,
        part: (0, 1),
        modes,
        only: arguments.only.iter().map(|name| name.to_lowercase()).collect(),
        longest: arguments.longest.max(1),
        strict: arguments.strict,
        native: arguments.native_only,
        minimise: arguments.minimise,
    };
    if let Some(part) = &arguments.part {
        let numbers: Vec<u64> = part.split('/').filter_map(|number| number.parse().ok()).collect();
        let [index, of] = numbers[..] else { return Err(io::Error::other("--part: not K/N")) };
        options.part = (index, of);
        hand_over(&driver::run(&options)?)?;
        return Ok(true);
    }
    let report = if arguments.jobs < 2 { driver::run(&options)? } else { in_parts(arguments.jobs)? };
    print(arguments, &report);
    Ok(report.different == 0)
}

fn list_forms() -> io::Result<bool> {
    let mut out = io::stdout().lock();
    for bitness in [64, 32] {
        let forms = forms::list(bitness);
        writeln!(out, "{bitness}-bit mode: {} forms", forms.len())?;
        for form in forms {
            writeln!(out, "  {:30} {:?}", format!("{:?}", form.code), form.op.instruction_string())?;
        }
        let left_out = forms::left_out(bitness);
        writeln!(out, "left out: {} forms", left_out.len())?;
        for (form, why) in left_out {
            writeln!(out, "  {:30} {why}", format!("{:?}", form.code))?;
        }
    }
    Ok(true)
}

/// A part's report, for the process that started it.
fn hand_over(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "total {} {} {}", report.compared, report.skipped, report.different)?;
    for mode in 0..2 {
        for (form, count) in report.coverage[mode].iter().enumerate() {
            writeln!(out, "form {mode} {form} {count} {}", report.begun[mode][form])?;
        }
    }
    for (name, (count, text)) in &report.groups {
        let lines = text.lines().count();
        writeln!(out, "group {count} {lines} {name}\n{}", text.trim_end())?;
    }
    writeln!(out, "end")
}

fn in_parts(jobs: u64) -> io::Result<Report> {
    let program = std::env::current_exe()?;
    let start = |part: u64| -> io::Result<Child> {
        Command::new(&program)
            .args(std::env::args_os().skip(1))
            .args(["--part", &format!("{part}/{jobs}")])
            .stdout(Stdio::piped())
            .spawn()
    };
    let children = (0..jobs).map(start).collect::<io::Result<Vec<_>>>()?;
    let mut report = Report::default();
    for mut child in children {
        let output = child.stdout.take().ok_or_else(|| io::Error::other("a part has no output"))?;
        if !merge(&mut report, BufReader::new(output))? || !child.wait()?.success() {
            return Err(io::Error::other("a part of the run has failed"));
        }
    }
    Ok(report)
}

/// Adds a part's report; false if it has no end.
fn merge(report: &mut Report, input: impl BufRead) -> io::Result<bool> {
    let mut lines = input.lines();
    while let Some(line) = lines.next() {
        let line = line?;
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        match words[0] {
            "total" => {
                report.compared += number(1);
                report.skipped += number(2);
                report.different += number(3);
            }
            "form" => {
                let mode = usize::from(number(1) == 1);
                let form = usize::try_from(number(2)).unwrap_or_default();
                let counts = words.get(3).and_then(|both| both.split_once(' ')).unwrap_or_default();
                for (list, count) in [(&mut report.coverage, counts.0), (&mut report.begun, counts.1)] {
                    let list = &mut list[mode];
                    list.resize(list.len().max(form + 1), 0);
                    list[form] += count.parse::<u64>().unwrap_or_default();
                }
            }
            "group" => {
                let mut text = String::new();
                for _ in 0..number(2) {
                    text.push_str(&lines.next().transpose()?.unwrap_or_default());
                    text.push('\n');
                }
                let entry = report.groups.entry(words.get(3).unwrap_or(&"").to_string()).or_default();
                entry.0 += number(1);
                if entry.1.is_empty() {
                    entry.1 = text;
                }
            }
            "end" => return Ok(true),
            _ => return Ok(false),
        }
    }
    Ok(false)
}

fn print(arguments: &Arguments, report: &Report) {
    for (name, (count, text)) in &report.groups {
        println!("{count} x {name}\n{text}");
    }
    for (mode, bitness) in [(0, 64), (1, 32)] {
        let forms = forms::list(bitness);
        let counts: Vec<_> = forms.iter().zip(&report.coverage[mode]).zip(&report.begun[mode]).collect();
        if counts.iter().all(|((_, _), begun)| **begun == 0) {
            continue;
        }
        if arguments.coverage {
            for ((form, done), begun) in &counts {
                println!("{bitness} {:30} begun {begun:8} done {done:8}", format!("{:?}", form.code));
            }
        }
        let never: Vec<String> = counts
            .iter()
            .filter(|((_, _), begun)| **begun == 0)
            .map(|((form, _), _)| format!("{:?}", form.code))
            .collect();
        let shown = never.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(" ");
        println!("{bitness}-bit mode: {} forms, {} never run {shown}", forms.len(), never.len());
    }
    println!(
        "seed {}: {} cases compared, {} skipped, {} different in {} groups",
        arguments.seed,
        report.compared,
        report.skipped,
        report.different,
        report.groups.len()
    );
}
