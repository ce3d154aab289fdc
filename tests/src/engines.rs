//! The engines that tests run on: [`each_engine`](crate::each_engine) makes of a function a test for each.

use std::cell::Cell;

use scribe_vmm::session::choice::{SyncPoints, Wish};

use crate::tiny;

/// What executes a test's guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// the host's KVM
    Kvm,
    /// the processor in software, with the sync points that KVM has: all must be the same
    Soft,
    /// the same with counted sync points
    Counted,
}

const ALL: [(Under, &str); 3] = [(Under::Kvm, "kvm"), (Under::Soft, "soft"), (Under::Counted, "counted")];

/// Environment of a child process: the engine that it goes on with.
const ENGINE: &str = "SCRIBE_TESTS_ENGINE";

thread_local! {
    static CURRENT: Cell<Under> = const { Cell::new(Under::Kvm) };
}

/// The engine of the calling thread's test.
pub fn current() -> Under {
    CURRENT.get()
}

/// Runs `test` on an engine; without a KVM its tests are skipped.
pub fn on(under: Under, name: &str, test: fn()) {
    if under == Under::Kvm && !tiny::kvm(name) {
        return;
    }
    CURRENT.set(under);
    test();
}

impl Under {
    /// As the program is asked for it.
    pub fn wish(self) -> Wish {
        match self {
            Self::Kvm => Wish::Kvm,
            Self::Soft | Self::Counted => Wish::Soft,
        }
    }

    /// Its sync points.
    pub fn sync_points(self) -> SyncPoints {
        match self {
            Self::Kvm | Self::Soft => SyncPoints::Exit,
            Self::Counted => SyncPoints::Counted,
        }
    }
}

/// For a child process's environment: the calling thread's engine.
pub fn environment() -> (&'static str, &'static str) {
    let name = ALL.iter().find(|(under, _)| *under == current()).map_or("kvm", |(_, name)| name);
    (ENGINE, name)
}

/// In a child process: goes on with its parent's engine.
pub fn enter() {
    let name = std::env::var(ENGINE).unwrap_or_default();
    if let Some((under, _)) = ALL.iter().find(|(_, known)| *known == name) {
        CURRENT.set(*under);
    }
}

/// Tests `kvm::NAME` and `soft::NAME` of functions; after `counted:` also `counted::NAME`.
#[macro_export]
macro_rules! each_engine {
    ($($name:ident),+ $(,)?) => {
        $crate::each_engine!(@on kvm Kvm $($name)+);
        $crate::each_engine!(@on soft Soft $($name)+);
    };
    (counted: $($name:ident),+ $(,)?) => {
        $crate::each_engine!(@on counted Counted $($name)+);
    };
    (@on $module:ident $under:ident $($name:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    let name = concat!(stringify!($module), "::", stringify!($name));
                    scribe_tests::engines::on(scribe_tests::engines::Under::$under, name, super::$name);
                }
            )+
        }
    };
}
