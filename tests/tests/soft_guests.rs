//! Whole machines on the soft engine alone: programs that check the processor, and Debian's kernel as packaged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use std::process::Command;

use scribe_log::EndCause;
use scribe_tests::lab::{KICKS, Lab, Outcome, figure, image, in_checkout, text};
use scribe_vmm::host::clock;

/// Most memory of the process beside the guest's RAM (MiB).
const MOST_OWN_MIB: u64 = 64;

/// Least speed, millions of guest instructions (and iterations of REP) a second, start-up and digests included.
const LEAST_RATE: u64 = 50;

/// Records a guest given by `from` (options that say what it is), as `name`, with everything fixed.
fn record(lab: &Lab, name: &str, from: &[&str], command: &[&str]) -> Outcome {
    let fixed = ["--engine", "soft", "--rtc", "2026-01-01", "--seed", "5c", "--pace", "max", "-o", name];
    lab.call(&[&["record"], &fixed[..], from, &["--"], command].concat()).finish().ends_with(0)
}

#[test]
fn programs_of_debian_check_the_processor() {
    let Some(lab) = Lab::on_soft("programs_of_debian_check_the_processor") else { return };
    let image = in_checkout("target/guest/check.img");
    let recorded = record(&lab, "check", &["--image", text(&image)], &["/bin/check"]).shows("check: ok");
    for line in recorded.console().lines() {
        if let Some((name, what)) = line.trim_end().split_once(": ").filter(|_| !line.starts_with('[')) {
            figure(&format!("guest self-check {name}"), what);
        }
    }
    assert_eq!(lab.end("check").cause, EndCause::PowerOff { status: 0 });
    lab.replays("check", &recorded, &KICKS);
}

/// Debian's kernel and the initramfs for it.
fn debian() -> [String; 4] {
    let path = |name: &str| text(&in_checkout("target/guest/debian").join(name)).to_owned();
    ["--kernel".into(), path("vmlinuz"), "--initrd".into(), path("initrd.img")]
}

#[test]
fn debians_kernel_as_packaged_is_recorded_and_replayed() {
    let Some(lab) = Lab::on_soft("debians_kernel_as_packaged_is_recorded_and_replayed") else { return };
    let debian = debian();
    let from: Vec<&str> = debian.iter().map(String::as_str).collect();
    let recorded = record(&lab, "a", &from, &["demo"]).shows("demo: ok").shows("-cloud-amd64 ");
    record(&lab, "b", &from, &["demo"]);
    for file in ["header", "events"] {
        let read = |name: &str| std::fs::read(lab.path(name).join(file)).unwrap();
        assert!(read("a") == read("b"), "{file}: two recordings of the same differ");
    }
    lab.replays_equal("a", &recorded);
    let sizes = lab.recording("a").sizes();
    let kernel =
        recorded.console().lines().find_map(|line| Some(line.split_once("Linux (none) ")?.1.to_owned()));
    let release = kernel.as_deref().and_then(|line| line.split_whitespace().next()).unwrap().to_owned();
    let exits = lab.end("a").exits;
    let bytes = sizes.header + sizes.events;
    let what = format!(
        "{release}, demo: recorded twice, byte-identical; replayed twice; {exits} exits, {bytes} bytes"
    );
    figure("Debian's kernel as packaged", what);
}

#[test]
fn debians_kernel_finds_apics_and_acpi_on_the_second_platform() {
    let Some(lab) = Lab::on_soft("debians_kernel_finds_apics_and_acpi_on_the_second_platform") else {
        return;
    };
    let debian = debian();
    let mut from: Vec<&str> = debian.iter().map(String::as_str).collect();
    from.extend(["--platform", "scribe-pc-2", "--snapshot-every", "300ms"]);
    let script = "grep IO-APIC /proc/interrupts; grep LOC: /proc/interrupts; sleep 1; grep PM1a /proc/ioports; poweroff -f";
    let recorded = record(&lab, "acpi", &from, &["sh", "-c", script])
        .shows("2-edge      timer")
        .shows("4-edge      ttyS0")
        .shows("9-fasteoi   acpi")
        .shows("Local timer interrupts")
        .shows("0604-0605 : ACPI PM1a_CNT_BLK");
    assert_eq!(lab.end("acpi").cause, EndCause::PowerOff { status: 0 }, "{recorded}");
    lab.replays("acpi", &recorded, &KICKS);
    // From a snapshot, local APIC and all.
    let outcome = lab.call(&["verify", "acpi"]).finish();
    figure("scribe-pc-2", format!("Debian's kernel with ACPI and APICs, {} exits", lab.end("acpi").exits));
    drop(outcome.ends_with(0));
}

#[test]
fn a_shell_on_debians_kernel_takes_what_is_typed() {
    let Some(lab) = Lab::on_soft("a_shell_on_debians_kernel_takes_what_is_typed") else { return };
    let debian = debian();
    let mut arguments = vec!["record", "--engine", "soft", "--pace", "max", "-o", "sh"];
    arguments.extend(debian.iter().map(String::as_str));
    let mut call = lab.call(&arguments).typed().start();
    call.waits_for("# ");
    call.types(b"echo $((6 * 7)) is the answer; exit 3\n");
    let recorded = call.finish().ends_with(0).shows("42 is the answer").says("status 3");
    lab.replays_equal("sh", &recorded);
}

#[test]
fn programs_of_32_bits_run_on_debians_kernel() {
    let Some(lab) = Lab::on_soft("programs_of_32_bits_run_on_debians_kernel") else { return };
    let debian = debian();
    let from: Vec<&str> = debian.iter().map(String::as_str).collect();
    let recorded = record(&lab, "32", &from, &["check32"]).shows("as in 64 bits");
    assert_eq!(lab.end("32").cause, EndCause::PowerOff { status: 0 }, "{recorded}");
    lab.replays("32", &recorded, &KICKS);
    figure("32-bit programs", "as the manual says; numbers as in 64 bits");
}

#[test]
#[ignore = "speed, which says something on an idle machine only: tests/soak/soft.sh"]
fn fifty_million_instructions_a_second() {
    let Some(lab) = Lab::on_soft("fifty_million_instructions_a_second") else { return };
    let mut rates = Vec::new();
    let mut count = 0;
    for run in ["a", "b", "c"] {
        let begun = clock::monotonic_ns();
        let call = lab.recorder(run, &["--pace", "max", "--", "/bin/demo"]).env("SCRIBE_VMM_STATS", "1");
        let recorded = call.finish().ends_with(0);
        let micros = (clock::monotonic_ns() - begun) / 1000;
        let line = recorded.stderr.lines().find_map(|line| line.strip_suffix(" instructions")).unwrap();
        count = line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        rates.push(count / micros);
    }
    rates.sort_unstable();
    let rate = rates[1];
    let what = format!(
        "{rate} M a second (at least {LEAST_RATE}), each iteration of REP counted as one; \
         median of 3 recordings of the demo, {count} each"
    );
    figure("instructions", what);
    assert!(rate >= LEAST_RATE, "{rates:?}");
}

#[test]
fn memory_is_the_guests_and_little_more() {
    let Some(lab) = Lab::on_soft("memory_is_the_guests_and_little_more") else { return };
    // The whole demo and then a file that fills RAM but for 12 MiB. Filling all of it would end in the OOM killer, and
    // which processes that leaves differs from seed to seed.
    let script = "/bin/demo && mount -t tmpfs -o size=100% none /mnt && \
        while read -r name kib unit; do [ $name = MemAvailable: ] && available=$kib; done </proc/meminfo; \
        dd if=/dev/zero of=/mnt/fill bs=1M count=$((available / 1024 - 12))";
    let image = image();
    let program = in_checkout("target/release/scribe-vmm");
    let arguments =
        ["record", "--engine", "soft", "--pace", "max", "--image", text(&image), "--", "sh", "-c", script];
    // %M: most resident memory of the process, KiB (time(1)).
    let output = Command::new("/usr/bin/time")
        .args(["-f", "%M"])
        .arg(program)
        .args(arguments)
        .env("SCRIBE_VMM_HOME", lab.path("home"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let peak: u64 = stderr.lines().last().unwrap().parse().unwrap();
    let mib = peak.div_ceil(1024);
    figure(
        "peak memory",
        format!("{mib} MiB, of them 128 MiB of guest RAM (at most {})", 128 + MOST_OWN_MIB),
    );
    assert!(mib > 128, "{mib} MiB: the guest has not touched its RAM");
    assert!(mib <= 128 + MOST_OWN_MIB, "{mib} MiB");
}
