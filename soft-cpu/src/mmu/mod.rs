//! Linear addresses to RAM: page walks, the TLB, loads and stores.
//!
//! A TLB entry with a matching tag means: the page is RAM, the access is allowed in this privilege context, A (and for
//! stores D) is set. Entries come with the guest's accesses and go when the guest says so (CR3, INVLPG, mode changes) or
//! another takes their place, never by chance, so what the guest can see of the TLB is the same in each run. It is part of
//! the processor's state ([`saved`]).
//!
//! Stores have a tag of their own for the fast path: it says besides that nobody wants to know of them (no code there,
//! already known as written). A store without it takes the slow path, which looks at the entry before it walks tables.

mod data;
pub(crate) mod saved;
mod tlb;
mod walk;

pub(crate) use walk::{Access, Context, is_canonical};

use crate::ram::{CODE, Page, Ram, WRITTEN};
use tlb::{Entry, NO_TAG};

/// Pages that the data TLB holds for one kind of access, and the one for code.
const ENTRIES: usize = 1024;

/// Which TLB data accesses use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User = 0,
    /// CPL below 3, pages of the user within reach (no SMAP, or RFLAGS.AC)
    KernelWithUser = 1,
    /// CPL below 3, SMAP
    Kernel = 2,
    /// always empty: each access has to be looked at
    Slow = 3,
}

/// The memory side of the processor.
pub(crate) struct Mmu {
    pub ram: Ram,
    context: Context,
    watching: bool,
    data: Box<[Entry; 4 * ENTRIES]>,
    /// where the current kind's entries begin in `data`
    base: usize,
    /// (linear page, guest physical page) that code was fetched from, of CPL 3 and others
    code: [Box<[(u64, u64); ENTRIES]>; 2],
    tracking: bool,
    /// guest physical ranges in pages with code that have been written since the cache last looked
    pub overwritten: Vec<(u64, u64)>,
    /// pages that the running block was decoded from: nothing is stored there before its instruction runs alone
    pub running: [usize; 2],
    /// a walk would have set a bit in one of these pages
    tables_run: bool,
    /// rises whenever translations, or what code may be fetched, have changed
    pub generation: u64,
}

/// No page: for [`Mmu::running`].
pub(crate) const NO_PAGE: usize = usize::MAX;

impl Mmu {
    pub(crate) fn new(ram: Ram) -> Self {
        Self {
            ram,
            context: Context::default(),
            watching: false,
            data: boxed(Entry::NONE),
            base: 0,
            code: [boxed((NO_TAG, 0)), boxed((NO_TAG, 0))],
            tracking: false,
            overwritten: Vec::new(),
            running: [NO_PAGE; 2],
            tables_run: false,
            generation: 0,
        }
    }

    /// Takes over what the walk depends on; drops translations if that makes them wrong.
    pub(crate) fn set_context(&mut self, context: Context) {
        if !self.context.same_translations(&context) {
            self.flush();
        }
        if self.context.user != context.user {
            self.generation += 1;
        }
        self.context = context;
        self.choose();
    }

    /// RFLAGS.AC has changed at CPL 0: what is in reach of the kernel under SMAP changes, translations do not.
    #[inline]
    pub(crate) fn set_access_user(&mut self, on: bool) {
        self.context.access_user = on;
        self.choose();
    }

    /// Data breakpoints are enabled: every access has to be looked at.
    pub(crate) fn set_watching(&mut self, on: bool) {
        if self.watching != on {
            self.watching = on;
            self.choose();
        }
    }

    pub(crate) fn is_watching(&self) -> bool {
        self.watching
    }

    fn choose(&mut self) {
        self.base = ENTRIES * (self.kind() as usize);
    }

    fn kind(&self) -> Kind {
        if self.watching || self.context.aligned {
            Kind::Slow
        } else if self.context.user {
            Kind::User
        } else if self.context.smap && !self.context.access_user {
            Kind::Kernel
        } else {
            Kind::KernelWithUser
        }
    }

    /// Drops all translations.
    pub(crate) fn flush(&mut self) {
        self.data.fill(Entry::NONE);
        for code in &mut self.code {
            code.fill((NO_TAG, 0));
        }
        self.generation += 1;
    }

    /// Drops the translation of one linear address. A large page may have left several entries, which one INVLPG must
    /// drop too, and it is not known here how large the page was: drop all.
    pub(crate) fn invalidate_page(&mut self, _linear: u64) {
        self.flush();
    }

    /// From now on [`take_written`](Self::take_written) reports pages.
    pub(crate) fn track(&mut self) {
        if !self.tracking {
            self.tracking = true;
            self.ram.take(WRITTEN);
            self.forget_writable();
        }
    }

    /// Guest frames written since the last call.
    pub(crate) fn take_written(&mut self) -> Vec<u64> {
        if !self.tracking {
            return Vec::new();
        }
        let pages = self.ram.take(WRITTEN);
        self.forget_writable();
        pages.into_iter().map(|index| self.ram.frame(index)).collect()
    }

    /// Stores take the slow path once more.
    fn forget_writable(&mut self) {
        for entry in self.data.iter_mut() {
            entry.write = NO_TAG;
        }
    }

    /// Code has been decoded from `page`: stores to it are noticed from now on.
    pub(crate) fn mark_code(&mut self, page: Page) {
        if self.ram.flags(page) & CODE != 0 {
            return;
        }
        *self.ram.flags_mut(page) |= CODE;
        for entry in self.data.iter_mut() {
            if entry.index() == page.index {
                entry.write = NO_TAG;
            }
        }
    }

    /// No code of `page` is cached any more.
    pub(crate) fn unmark_code(&mut self, page: Page) {
        *self.ram.flags_mut(page) &= !CODE;
    }
}

fn boxed<T: Copy, const N: usize>(value: T) -> Box<[T; N]> {
    match vec![value; N].into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => Box::new([value; N]),
    }
}
