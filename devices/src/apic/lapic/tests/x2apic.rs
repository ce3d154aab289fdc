//! The base MSR, the ways between the modes, and which access to an x2APIC's register is #GP.

use super::*;

const XAPIC: u64 = BASE_ADDRESS | 0x800;
const X2APIC: u64 = BASE_ADDRESS | 0xc00;

fn x2apic(id: u32) -> Lapic {
    let mut lapic = enabled(id);
    lapic.write_msr(APIC_BASE, X2APIC, 0, TSC).unwrap();
    lapic
}

fn set(lapic: &mut Lapic, index: u32, value: u64) -> Result<Option<Request>, GeneralProtection> {
    lapic.write_msr(index, value, 0, TSC)
}

#[test]
fn modes() {
    let mut lapic = enabled(0);
    let gp = Err(GeneralProtection);
    assert_eq!(lapic.read_msr(APIC_BASE, 0), Ok(XAPIC | 0x100));
    put(&mut lapic, 0x80, 0x20);
    put(&mut lapic, 0x310, 0x0300_0000);
    assert_eq!(lapic.read_msr(0x808, 0), Err(GeneralProtection));
    for (value, expected) in [
        (BASE_ADDRESS | 0x400, gp),
        (0xfee0_1800, gp),
        (XAPIC | 1, gp),
        (XAPIC | 1 << 9, gp),
        (XAPIC | 1 << 40, gp),
        (X2APIC, Ok(None)),
        (XAPIC, gp),
        (X2APIC | 0x100, Ok(None)),
    ] {
        assert_eq!(set(&mut lapic, APIC_BASE, value), expected, "{value:#x}");
    }
    assert_eq!((lapic.mode(), lapic.read(0x80, 4, 0)), (Mode::X2Apic, None));
    assert_eq!(lapic.read_msr(0x808, 0), Ok(0x20), "the state stays");
    assert_eq!(lapic.read_msr(0x830, 0), Ok(0));
    assert_eq!(set(&mut lapic, APIC_BASE, BASE_ADDRESS), Ok(None));
    assert_eq!(lapic.read_msr(APIC_BASE, 0), Ok(BASE_ADDRESS | 0x100));
    assert_eq!(set(&mut lapic, APIC_BASE, X2APIC), gp, "not at once");
    assert_eq!(set(&mut lapic, APIC_BASE, XAPIC), Ok(None));
    assert_eq!((get(&mut lapic, 0x80), get(&mut lapic, 0xf0)), (0, 0xff), "as after power-on");
    let mut old = Lapic::new(LapicConfig { x2apic: false, ..config(5) });
    assert_eq!(set(&mut old, APIC_BASE, X2APIC), gp);
    assert_eq!(old.read_msr(APIC_BASE, 0), Ok(XAPIC));
}

#[test]
fn which_accesses_are_general_protection() {
    let readable =
        |index: u32| matches!(index & 0xff, 2 | 3 | 8 | 0xa | 0xd | 0xf..=0x28 | 0x30 | 0x32..=0x39 | 0x3e);
    let writable =
        |index: u32| matches!(index & 0xff, 8 | 0xb | 0xf | 0x28 | 0x30 | 0x32..=0x38 | 0x3e | 0x3f);
    for index in X2APIC_MSRS {
        assert_eq!(x2apic(0).read_msr(index, 0).is_ok(), readable(index), "RDMSR {index:#x}");
        assert_eq!(set(&mut x2apic(0), index, 0).is_ok(), writable(index), "WRMSR {index:#x}");
        assert_eq!(set(&mut x2apic(0), index, 1 << 32).is_ok(), index == 0x830, "WRMSR {index:#x}");
    }
    for (index, value) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x1000),
        (0x828, 1),
        (0x830, 1 << 12),
        (0x830, 1 << 20),
        (0x832, 1 << 19),
        (0x833, 1 << 13),
        (0x835, 1 << 17),
        (0x837, 1 << 8),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert_eq!(set(&mut x2apic(0), index, value), Err(GeneralProtection), "{index:#x} {value:#x}");
    }
    assert_eq!(set(&mut x2apic(0), 0x835, 1 << 12 | 1 << 14 | 0x700), Ok(None), "read-only, not reserved");
    assert!([APIC_BASE, TSC_DEADLINE, 0x800, 0x8ff].into_iter().all(is_apic_msr));
    assert!(![0x1a, 0x7ff, 0x900].into_iter().any(is_apic_msr));
}

#[test]
fn ids_have_32_bits_and_logical_ids_follow() {
    let mut lapics: Vec<Lapic> = [0, 1, 17, 0x1_0002].map(x2apic).into();
    assert_eq!(lapics[3].read_msr(0x802, 0), Ok(0x1_0002));
    let logical: Vec<_> = lapics.iter_mut().map(|lapic| lapic.read_msr(0x80d, 0).unwrap()).collect();
    assert_eq!(logical, [1, 2, 1 << 16 | 2, 0x1000 << 16 | 4]);
    let takers = |lapics: &mut [Lapic], value: u64| {
        let Ok(Some(Request::Send(message))) = set(&mut lapics[0], 0x830, value) else { panic!() };
        deliver(lapics, &message);
        let mut takers = Vec::new();
        for lapic in lapics.iter_mut().filter(|lapic| lapic.pending().is_some()) {
            assert_eq!(lapic.acknowledge(), 0x44);
            set(lapic, 0x80b, 0).unwrap();
            takers.push(lapic.id());
        }
        takers
    };
    for (value, expected) in [
        (0x1_0002 << 32 | 0x44, vec![0x1_0002]),
        (0xff << 32 | 0x44, vec![]),
        (0xffff_ffff << 32 | 0x44, vec![0, 1, 17, 0x1_0002]),
        (0x0000_0003 << 32 | 0x844, vec![0, 1]),
        (0x0001_ffff << 32 | 0x844, vec![17]),
        (0x4_0044, vec![0]),
        (0xc_0044, vec![1, 17, 0x1_0002]),
    ] {
        assert_eq!(takers(&mut lapics, value), expected, "{value:#x}");
        assert_eq!(lapics[0].read_msr(0x830, 0), Ok(value));
    }
    // What an I/O APIC can name: the first eight of cluster 0.
    let message = Message { destination: Destination::Logical(3), ..fixed(0x44) };
    deliver(&mut lapics, &message);
    assert_eq!(lapics.iter().filter(|lapic| lapic.pending().is_some()).count(), 2);
}

#[test]
fn self_ipi() {
    let mut lapic = x2apic(9);
    let Ok(Some(Request::Send(message))) = set(&mut lapic, 0x83f, 0x77) else { panic!() };
    deliver(std::slice::from_mut(&mut lapic), &message);
    assert_eq!(lapic.acknowledge(), 0x77);
    assert_eq!(set(&mut lapic, 0x83f, 5), Ok(None));
    set(&mut lapic, 0x828, 0).unwrap();
    assert_eq!(lapic.read_msr(0x828, 0), Ok(0x20));
}
