//! Which engine executes a guest, with which processor and which sync points, and why.

use scribe_log::Header;
use scribe_log::header::{Engine as EngineName, TimeConstants};
use scribe_soft_cpu::Behaviour;

use super::config::{ConfigError, GuestConfig};
use crate::engine::pmu::Counter;
use crate::engine::soft;
use crate::machine::chaos;
use crate::machine::cpuid::{self, Profile};
use crate::machine::platform::{self, Platform};
use crate::machine::time::WITHOUT_COUNTER;

/// What the branch counter counts, in recordings: every retired Jcc, JCXZ, JECXZ, JRCXZ, LOOP and LOOPcc, taken or not
/// (docs/determinism.md, section 1).
pub const COUNTER: &str = "retired-conditional-branches-1";

/// What the user wants to have the guest executed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// what fits
    Auto {
        /// whether the host's KVM is fit, or why not
        kvm: Result<(), String>,
    },
    /// the host's KVM
    Kvm,
    /// the processor in software
    Soft,
}

/// The counter of this host's processor that the kvm engine may use, or why it does without, for people.
pub type HostCounter = Result<Counter, String>;

/// Between which places time passes and input comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPoints {
    /// exits only
    Exit,
    /// exits, timers, and wherever the guest is
    Counted,
}

/// What executes the guest.
#[derive(Debug, Clone)]
pub struct Choice {
    /// the engine
    pub engine: EngineName,
    /// CPU profile
    pub cpu: &'static Profile,
    /// kinds of sync points
    pub sync_points: SyncPoints,
    /// with counted sync points on kvm: what counts there
    pub counter: Option<Counter>,
    /// what the soft engine's processor does where the manuals leave it open
    pub behaviour: Option<Behaviour>,
    /// why this engine, for people; `None` if the user named it
    pub why: Option<String>,
}

impl Choice {
    /// Says on stderr which engine it is and why, unless the user knows.
    pub fn tell(&self) {
        if let Some(why) = &self.why {
            say!("engine {}: {why}", name(self.engine));
        }
    }

    /// For the header: the counter's name and what branches and exits are worth.
    pub fn counting(&self) -> (Option<String>, TimeConstants) {
        match self.sync_points {
            SyncPoints::Exit => (None, WITHOUT_COUNTER),
            SyncPoints::Counted => (Some(COUNTER.into()), COUNTED),
        }
    }
}

const COUNTED: TimeConstants =
    TimeConstants { ns_per_branch: platform::NS_PER_BRANCH, ns_per_exit: platform::NS_PER_EXIT };

/// The engine's name, as on the command line.
pub fn name(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Kvm => "kvm",
        EngineName::Soft => "soft",
    }
}

fn behaviour_named(name: &str) -> Result<Behaviour, ConfigError> {
    let unknown =
        || ConfigError::Option(format!("--behaviour {name}: no such behaviour; there are zen and tcg"));
    soft::behaviour(name).ok_or_else(unknown)
}

fn refused<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Option(text))
}

/// Chooses for a new guest, whose kernel `kernel` is `noted` if it says that it reads no clock.
///
/// # Errors
/// What was asked for does not go together.
pub fn for_guest(config: &GuestConfig, kernel: &str, noted: bool) -> Result<Choice, ConfigError> {
    let platform = config.platform(noted);
    let cpu = config.cpu.as_deref().unwrap_or(match (noted, platform) {
        (true, _) => cpuid::SCRIBE_V1,
        (false, Platform::Pc1) => cpuid::SCRIBE_V1_TSC,
        (false, Platform::Pc2) => cpuid::SCRIBE_V2_TSC,
    });
    let Some(profile) = cpuid::profile(cpu) else {
        let known: Vec<&str> = cpuid::PROFILES.iter().map(|profile| profile.name).collect();
        return refused(format!("--cpu {cpu}: no such profile; there are {}", known.join(" and ")));
    };
    if profile.apic && platform < Platform::Pc2 {
        let platform = Platform::Pc2.name();
        return refused(format!("--cpu {cpu}: it has a local APIC; use --platform {platform}"));
    }
    let behaviour = config.behaviour.as_deref().map(behaviour_named).transpose()?;
    let needs_soft = if !noted {
        Some(format!("{kernel} does not say that it reads no TSC (no ELF note `Scribe`)"))
    } else if profile.tsc {
        Some(format!("only it has CPU profile {cpu}"))
    } else if let (Some(SyncPoints::Counted), Err(lacks)) = (config.sync_points, &config.counter) {
        Some(format!("only it counts branches here (--sync-points counted): {lacks}"))
    } else {
        behaviour.map(|_| "only it can be told how to behave".into())
    };
    let (engine, why) = match (&config.engine, needs_soft) {
        (Wish::Kvm, Some(_)) if !noted => return Err(ConfigError::KernelWithoutNote(kernel.to_owned())),
        (Wish::Kvm, Some(needs)) => {
            return refused(format!("--engine kvm does not do for this guest; use --engine soft: {needs}"));
        }
        (Wish::Kvm, None) => (EngineName::Kvm, None),
        (Wish::Soft, _) => (EngineName::Soft, None),
        (Wish::Auto { .. }, Some(needs)) => (EngineName::Soft, Some(needs)),
        (Wish::Auto { kvm: Ok(()) }, None) => (EngineName::Kvm, Some("this host's KVM is fit".into())),
        (Wish::Auto { kvm: Err(unfit) }, None) => (EngineName::Soft, Some(unfit.clone())),
    };
    let (sync_points, counter, behaviour) = match engine {
        EngineName::Kvm => match (config.sync_points, &config.counter) {
            (Some(SyncPoints::Exit), _) | (_, Err(_)) => (SyncPoints::Exit, None, None),
            (_, Ok(counter)) => (SyncPoints::Counted, Some(counter.clone()), None),
        },
        EngineName::Soft => {
            (config.sync_points.unwrap_or(SyncPoints::Counted), None, Some(behaviour.unwrap_or_default()))
        }
    };
    Ok(Choice { engine, cpu: profile, sync_points, counter, behaviour, why })
}

/// Chooses for the recording with this header, which [`check`] has let through.
///
/// # Errors
/// What was asked for cannot replay it.
pub fn for_recording(
    wish: &Wish,
    behaviour: Option<&str>,
    header: &Header,
    noted: bool,
    counter: &HostCounter,
) -> Result<Choice, ConfigError> {
    let Some(profile) = cpuid::profile(&header.cpu) else {
        return Err(ConfigError::Unsupported(format!("CPU profile {}", header.cpu)));
    };
    let sync_points = if header.counter.is_some() { SyncPoints::Counted } else { SyncPoints::Exit };
    let counter = counter.as_ref().map_err(|lacks| format!("it has counted sync points: {lacks}"));
    let kvm_lacks = match &counter {
        Err(lacks) if sync_points == SyncPoints::Counted => Some(lacks.as_str()),
        _ if profile.tsc => Some("its processor has a TSC"),
        _ if !noted => Some("its kernel has no ELF note `Scribe`"),
        _ => None,
    };
    let (engine, why) = match (wish, header.engine, kvm_lacks) {
        (Wish::Kvm, _, Some(lacks)) => {
            return refused(format!("--engine kvm cannot replay this recording: {lacks}; use --engine soft"));
        }
        (Wish::Kvm, _, None) => (EngineName::Kvm, None),
        (Wish::Soft, _, _) => (EngineName::Soft, None),
        (Wish::Auto { .. }, EngineName::Soft, _) => (EngineName::Soft, Some("as recorded".to_owned())),
        (Wish::Auto { kvm: Ok(()) }, EngineName::Kvm, None) => {
            (EngineName::Kvm, Some("as recorded".to_owned()))
        }
        (Wish::Auto { kvm: Err(unfit) }, EngineName::Kvm, None) => {
            (EngineName::Soft, Some(format!("the recording was made on kvm, but {unfit}")))
        }
        (Wish::Auto { .. }, EngineName::Kvm, Some(lacks)) => (EngineName::Soft, Some(lacks.to_owned())),
    };
    let (counter, behaviour) = match engine {
        EngineName::Kvm => (counter.ok().filter(|_| sync_points == SyncPoints::Counted).cloned(), None),
        EngineName::Soft => (None, Some(recorded_behaviour(header, behaviour)?)),
    };
    Ok(Choice { engine, cpu: profile, sync_points, counter, behaviour, why })
}

/// What the processor of a recording did where the manuals leave it open. One made on KVM does not say.
fn recorded_behaviour(header: &Header, asked: Option<&str>) -> Result<Behaviour, ConfigError> {
    let emulated = header.host.cpu_model.starts_with("QEMU TCG");
    let wanted = match (header.behaviour.as_deref(), asked) {
        (Some(recorded), Some(asked)) if recorded != asked => {
            return refused(format!("--behaviour {asked}: the recording was made with {recorded}"));
        }
        (Some(recorded), _) => recorded,
        (None, Some(asked)) => asked,
        (None, None) if emulated => "tcg",
        (None, None) => "zen",
    };
    behaviour_named(wanted)
}

/// Checks that this program has what a recording's header names.
///
/// # Errors
/// The first that it does not have, by name.
pub fn check(header: &Header) -> Result<(), ConfigError> {
    let counter = header.counter.as_deref();
    let time = if counter.is_some() { COUNTED } else { WITHOUT_COUNTER };
    let behaviour = header.behaviour.as_deref();
    let checks = [
        (cpuid::profile(&header.cpu).is_some(), format!("CPU profile {}", header.cpu)),
        (
            cpuid::profile(&header.cpu).is_none_or(|profile| !profile.apic)
                || Platform::named(&header.platform) >= Some(Platform::Pc2),
            format!("CPU profile {} on platform {}", header.cpu, header.platform),
        ),
        (
            counter.is_none_or(|name| name == COUNTER),
            format!("branch counter {}", counter.unwrap_or_default()),
        ),
        (
            behaviour.is_none_or(|name| soft::behaviour(name).is_some()),
            format!("processor behaviour {}", behaviour.unwrap_or_default()),
        ),
        (
            header.chaos.is_none_or(|chaos| chaos.version == chaos::VERSION),
            format!("version {} of chaos", header.chaos.map_or(0, |chaos| chaos.version)),
        ),
        (
            header.time == time || (header.chaos.is_some() && chaos::is_possible(header.time, time)),
            "other time constants".into(),
        ),
    ];
    match checks.into_iter().find(|(supported, _)| !supported) {
        Some((_, what)) => Err(ConfigError::Unsupported(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use scribe_log::header::Pace;

    use super::*;
    use crate::host::perf::{self, Event};

    const UNFIT: &str = "this host's KVM cannot";

    fn guest(engine: Wish) -> GuestConfig {
        GuestConfig {
            devices: Vec::new(),
            image: None,
            kernel: Some("vmlinux".into()),
            initrd: None,
            append: None,
            platform: Default::default(),
            memory: 128 << 20,
            command: Vec::new(),
            seed: [0; 32],
            rtc: 0,
            pace: Pace::Max,
            digest_every: 0,
            engine,
            cpu: None,
            sync_points: None,
            behaviour: None,
            counter: none(),
            chaos: None,
        }
    }

    fn none() -> HostCounter {
        Err("nothing counts here".into())
    }

    fn some() -> HostCounter {
        let event = Event { pmu: perf::RAW, config: 0x5100d1 };
        Ok(Counter { model: "Zen 5", event, skid: 10_000, processors: None })
    }

    fn fit() -> Wish {
        Wish::Auto { kvm: Ok(()) }
    }

    fn unfit() -> Wish {
        Wish::Auto { kvm: Err(UNFIT.into()) }
    }

    fn chosen(choice: Result<Choice, ConfigError>) -> (EngineName, &'static str, SyncPoints, String) {
        let choice = choice.unwrap();
        assert_eq!(choice.behaviour.is_some(), choice.engine == EngineName::Soft);
        let counts = choice.engine == EngineName::Kvm && choice.sync_points == SyncPoints::Counted;
        assert_eq!(choice.counter.is_some(), counts);
        (choice.engine, choice.cpu.name, choice.sync_points, choice.why.unwrap_or_default())
    }

    #[test]
    fn auto_takes_kvm_where_it_fits_host_and_guest() {
        use EngineName::{Kvm, Soft};
        use SyncPoints::{Counted, Exit};
        let new = |config: &GuestConfig, noted| chosen(for_guest(config, "vmlinux", noted));
        assert_eq!(new(&guest(fit()), true), (Kvm, "scribe-v1", Exit, "this host's KVM is fit".into()));
        assert_eq!(new(&guest(unfit()), true), (Soft, "scribe-v1", Counted, UNFIT.into()));
        let (engine, cpu, sync_points, why) = new(&guest(fit()), false);
        assert_eq!((engine, cpu, sync_points), (Soft, "scribe-v1-tsc", Counted));
        assert!(why.contains("vmlinux") && why.contains("note"), "{why}");
        let tsc = GuestConfig { cpu: Some("scribe-v1-tsc".into()), ..guest(fit()) };
        assert_eq!(new(&tsc, true).0, Soft);
        let counted = GuestConfig { sync_points: Some(Counted), ..guest(fit()) };
        assert_eq!(new(&counted, true).0, Soft);
        let exits = GuestConfig { sync_points: Some(Exit), ..guest(Wish::Soft) };
        assert_eq!(new(&exits, true), (Soft, "scribe-v1", Exit, String::new()));
        assert_eq!(new(&guest(Wish::Kvm), true).0, Kvm);
    }

    #[test]
    fn kvm_counts_where_there_is_a_counter() {
        use SyncPoints::{Counted, Exit};
        let new = |config: GuestConfig| {
            let (engine, _, sync_points, _) = chosen(for_guest(&config, "vmlinux", true));
            (engine, sync_points)
        };
        let kvm = |sync_points, counter| GuestConfig { sync_points, counter, ..guest(Wish::Kvm) };
        assert_eq!(new(kvm(None, some())), (EngineName::Kvm, Counted));
        assert_eq!(new(kvm(None, none())), (EngineName::Kvm, Exit));
        assert_eq!(new(kvm(Some(Counted), some())), (EngineName::Kvm, Counted));
        assert_eq!(new(kvm(Some(Exit), some())), (EngineName::Kvm, Exit));
        assert_eq!(new(GuestConfig { counter: some(), ..guest(fit()) }), (EngineName::Kvm, Counted));
        assert_eq!(new(GuestConfig { counter: some(), ..guest(unfit()) }), (EngineName::Soft, Counted));
        let refused = for_guest(&kvm(Some(Counted), none()), "vmlinux", true).unwrap_err().to_string();
        for words in ["--engine kvm", "use --engine soft", "nothing counts here"] {
            assert!(refused.contains(words), "{refused}");
        }
        // The recording names engine and counter.
        let header = recorded(&kvm(None, some()));
        assert_eq!((header.engine, header.counter.as_deref()), (EngineName::Kvm, Some(COUNTER)));
        assert_eq!(header.time, COUNTED);
        check(&header).unwrap();
    }

    #[test]
    fn a_counted_recording_is_replayed_on_what_counts() {
        use EngineName::{Kvm, Soft};
        let kvm = recorded(&GuestConfig { counter: some(), ..guest(Wish::Kvm) });
        let soft = recorded(&guest(Wish::Soft));
        let on = |wish: Wish, header: &Header, counter: HostCounter| {
            let (engine, _, sync_points, why) = chosen(for_recording(&wish, None, header, true, &counter));
            assert_eq!(sync_points, SyncPoints::Counted);
            (engine, why)
        };
        assert_eq!(on(fit(), &kvm, some()), (Kvm, "as recorded".into()));
        let (engine, why) = on(fit(), &kvm, none());
        assert_eq!(engine, Soft);
        assert!(why.contains("it has counted sync points: nothing counts here"), "{why}");
        assert_eq!(on(unfit(), &kvm, some()).0, Soft);
        assert_eq!(on(Wish::Kvm, &kvm, some()).0, Kvm);
        assert_eq!(on(Wish::Kvm, &soft, some()).0, Kvm);
        assert_eq!(on(fit(), &soft, some()), (Soft, "as recorded".into()));
        assert_eq!(on(Wish::Soft, &kvm, none()).0, Soft);
        for header in [&kvm, &soft] {
            let refused = for_recording(&Wish::Kvm, None, header, true, &none()).unwrap_err().to_string();
            for words in [
                "--engine kvm cannot replay",
                "counted sync points",
                "nothing counts here",
                "use --engine soft",
            ] {
                assert!(refused.contains(words), "{refused}");
            }
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let refused = |config: GuestConfig, noted| for_guest(&config, "vmlinux", noted).unwrap_err();
        assert!(matches!(refused(guest(Wish::Kvm), false), ConfigError::KernelWithoutNote(_)));
        for config in [
            GuestConfig { sync_points: Some(SyncPoints::Counted), ..guest(Wish::Kvm) },
            GuestConfig { cpu: Some("scribe-v1-tsc".into()), ..guest(Wish::Kvm) },
            GuestConfig { cpu: Some("scribe-v2".into()), ..guest(Wish::Soft) },
            GuestConfig { cpu: Some("scribe-v2-tsc".into()), ..guest(Wish::Soft) },
            GuestConfig { behaviour: Some("tcg".into()), ..guest(Wish::Kvm) },
            GuestConfig { behaviour: Some("vax".into()), ..guest(Wish::Soft) },
        ] {
            assert!(matches!(refused(config, true), ConfigError::Option(_)));
        }
    }

    #[test]
    fn the_second_platform_has_a_processor_with_an_apic() {
        let second = |engine| GuestConfig { platform: Some(Platform::Pc2), ..guest(engine) };
        let cpu = |config, noted| for_guest(&config, "vmlinux", noted).unwrap().cpu.name;
        assert_eq!(cpu(second(Wish::Soft), false), "scribe-v2-tsc");
        assert_eq!(cpu(second(Wish::Soft), true), "scribe-v1");
    }

    /// What a recording of such a choice has in its header.
    fn recorded(config: &GuestConfig) -> Header {
        let choice = for_guest(config, "vmlinux", true).unwrap();
        let (counter, time) = choice.counting();
        Header {
            engine: choice.engine,
            behaviour: choice.behaviour.map(|behaviour| soft::name(behaviour).into()),
            cpu: choice.cpu.name.into(),
            counter,
            time,
            ..crate::session::tests::header()
        }
    }

    #[test]
    fn each_recording_replays_on_what_can_replay_it() {
        use EngineName::{Kvm, Soft};
        let on =
            |wish: Wish, header: &Header| for_recording(&wish, None, header, true, &none()).map(|c| c.engine);
        let kvm = recorded(&guest(Wish::Kvm));
        let counted = recorded(&guest(Wish::Soft));
        let exits = recorded(&GuestConfig { sync_points: Some(SyncPoints::Exit), ..guest(Wish::Soft) });
        for header in [&kvm, &counted, &exits] {
            check(header).unwrap();
            assert_eq!(on(Wish::Soft, header).unwrap(), Soft);
        }
        assert_eq!(on(fit(), &kvm).unwrap(), Kvm);
        assert_eq!(on(unfit(), &kvm).unwrap(), Soft);
        assert_eq!(on(fit(), &counted).unwrap(), Soft);
        assert_eq!(on(fit(), &exits).unwrap(), Soft);
        assert_eq!(on(Wish::Kvm, &exits).unwrap(), Kvm);
        assert!(matches!(on(Wish::Kvm, &counted), Err(ConfigError::Option(_))));
        assert!(matches!(for_recording(&Wish::Kvm, None, &kvm, false, &none()), Err(ConfigError::Option(_))));
    }

    #[test]
    fn the_behaviour_is_that_of_the_recording() {
        let soft = |asked, header: &Header| {
            for_recording(&Wish::Soft, asked, header, true, &none())
                .map(|choice| choice.behaviour.map(soft::name))
        };
        let mut header = recorded(&guest(Wish::Kvm));
        assert_eq!(soft(None, &header).unwrap(), Some("zen"));
        assert_eq!(soft(Some("tcg"), &header).unwrap(), Some("tcg"));
        header.host.cpu_model = "QEMU TCG CPU version 2.5+".into();
        assert_eq!(soft(None, &header).unwrap(), Some("tcg"));
        assert_eq!(soft(Some("zen"), &header).unwrap(), Some("zen"));
        let header = recorded(&GuestConfig { behaviour: Some("tcg".into()), ..guest(Wish::Soft) });
        assert_eq!(soft(None, &header).unwrap(), Some("tcg"));
        assert!(matches!(soft(Some("zen"), &header), Err(ConfigError::Option(_))));
    }

    #[test]
    fn what_this_program_does_not_know_is_named() {
        type Change = fn(&mut Header);
        let changes: [(&str, Change); 4] = [
            ("counter retired-instructions", |h| h.counter = Some("retired-instructions".into())),
            ("behaviour intel", |h| h.behaviour = Some("intel".into())),
            ("profile scribe-v9", |h| h.cpu = "scribe-v9".into()),
            ("time constants", |h| h.time.ns_per_branch = 9),
        ];
        for (words, change) in changes {
            let mut header = recorded(&guest(Wish::Soft));
            change(&mut header);
            let error = check(&header).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
