//! Transcendental functions against values computed to 700 bits, with pi of 66 bits where the processor has that, and
//! rounded to nearest; for hosts without an x87, and to show that the results are the exact ones rounded.

use crate::testing::{Bench, CODE};

/// Second bytes of the instructions.
const FSIN: u8 = 0xfe;
const FCOS: u8 = 0xff;
const FPTAN: u8 = 0xf2;
const F2XM1: u8 = 0xf0;
const FPATAN: u8 = 0xf3;
const FYL2X: u8 = 0xf1;
const FYL2XP1: u8 = 0xf9;

/// Instruction, ST(0), ST(1), result.
const VALUES: &[(u8, u128, u128, u128)] = &[
    (FSIN, 0xbff0_a69e_0d37_f2a7_4de4, 0, 0xbff0_a69e_0d37_3670_c231),
    (FSIN, 0x3ffd_d23f_0824_128b_2f33, 0, 0x3ffd_cc63_1a04_fe4a_463d),
    (FSIN, 0x3ffe_8ed9_0475_9531_985d, 0, 0x3ffe_878c_a348_35fc_8ec4),
    (FSIN, 0xbfff_9600_a35a_0999_50d8, 0, 0xbffe_ebe6_a481_b147_bed9),
    (FSIN, 0x4000_9738_f7d9_3d9c_1724, 0, 0x3ffe_b3cf_683c_802e_1a29),
    (FSIN, 0xc002_90c1_92cf_d3ac_94af, 0, 0xbffd_bcbb_1f85_08e3_d9d1),
    (FSIN, 0x4016_a09f_76b5_a170_b338, 0, 0xbffe_e1ed_acc2_b1f4_288e),
    (FSIN, 0xc031_95e6_0af5_93bd_04cf, 0, 0xbffe_f8c6_16c3_c20a_0a6d),
    (FSIN, 0x403d_8e81_973e_0bec_d7b0, 0, 0xbffd_a7dc_8349_cee3_69c2),
    (FCOS, 0x3fef_a4ed_e6a4_6b4c_b242, 0, 0x3ffe_ffff_ffff_2b7c_a6d1),
    (FCOS, 0x3ffe_d0ed_a82f_8f6d_0558, 0, 0x3ffe_af5f_52f3_91cd_bda3),
    (FCOS, 0x3ffd_923a_7369_94e3_bf91, 0, 0x3ffe_f5a1_4756_eda2_e55c),
    (FCOS, 0x3fff_8c38_fb29_18f1_35d2, 0, 0x3ffd_ea4c_17e1_a432_56fe),
    (FCOS, 0xc000_b4b9_b5df_9e77_69b1, 0, 0xbffe_f32f_28fd_d17d_1892),
    (FCOS, 0xc004_c6f8_7718_6d76_b07e, 0, 0x3ffe_ddcc_aabf_e403_2776),
    (FCOS, 0xc01c_f403_e430_ec66_a787, 0, 0xbffe_ee2a_482d_4913_f191),
    (FCOS, 0x4034_ae05_319a_cb5c_7427, 0, 0x3ffe_bcfa_ae31_31f0_2060),
    (FCOS, 0xc03d_930d_6eaf_14f4_733f, 0, 0x3ffe_b0d1_f759_870f_d8dd),
    (FPTAN, 0x3ff2_d7ee_05cd_e009_02c7, 0, 0x3ff2_d7ee_0601_153d_c3d3),
    (FPTAN, 0xbffe_faec_bd38_9be4_bcfc, 0, 0xbfff_beea_3102_5125_65d0),
    (FPTAN, 0xbffe_c1d3_fcff_2a3a_f4d4, 0, 0xbffe_f1ed_1df1_ddc8_2cad),
    (FPTAN, 0x3fff_8a09_7c97_6bf4_6c69, 0, 0x3fff_ee9a_e037_091f_7402),
    (FPTAN, 0x4000_8ede_0d7a_c3ba_ea9e, 0, 0xbfff_a46a_035b_ce53_0135),
    (FPTAN, 0xc003_b1fe_e08f_5712_4242, 0, 0xbffd_8745_f004_5951_c6dc),
    (FPTAN, 0xc01a_cc01_1cdd_9474_031b, 0, 0x3fff_c96f_847d_2e1f_9c7d),
    (FPTAN, 0xc032_c51a_bd81_f1d6_9ed6, 0, 0xbffe_ffa1_637e_53cb_2887),
    (FPTAN, 0x403d_bb2d_420f_0f88_080b, 0, 0x4000_d2a7_9b8e_4229_88d5),
    (F2XM1, 0x3fea_ae65_8f33_fe3b_890b, 0, 0x3fe9_f1c3_e6b2_9f16_0ea9),
    (F2XM1, 0x3ffd_e2c3_3a4f_b774_eb52, 0, 0x3ffd_b7fa_1982_4eea_8d04),
    (F2XM1, 0xbffe_f0ce_5835_05c6_af07, 0, 0xbffd_f53f_ab87_46b3_23bf),
    (F2XM1, 0xbffe_9df9_fd78_9c65_3938, 0, 0xbffd_b22f_67d6_53b8_dc32),
    (F2XM1, 0xbff8_c995_2399_c4aa_eac1, 0, 0xbff8_8b21_dcbc_413f_f891),
    (F2XM1, 0x3ffe_e415_479c_65dc_9f50, 0, 0x3ffe_dab9_b9a5_9d16_87c5),
    (FPATAN, 0xbfe8_aa96_fb1a_14a0_f9e7, 0x3fff_a30d_977e_e225_7159, 0x3fff_c90f_dbad_f6a0_f271),
    (FPATAN, 0xbffe_b4d6_6a3a_4746_9a4d, 0xbfff_e25a_7605_aec6_f024, 0xbfff_f9b4_fcfc_8fca_3a25),
    (FPATAN, 0xbffe_953e_7c2a_26a2_c0bd, 0xbffe_bbbb_e9ea_a894_8c89, 0xc000_8f84_91e8_520b_b592),
    (FPATAN, 0xc000_c343_5cc5_2eae_05cf, 0xbffe_88da_f401_6b40_13ef, 0xc000_bdf5_ea33_c395_c1e1),
    (FPATAN, 0x4001_a020_3626_f3fe_39c0, 0x3ffe_e647_cb8f_74e6_9a5d, 0x3ffc_b622_618a_949c_59d1),
    (FPATAN, 0xbfff_e623_7a04_65e7_e423, 0xbfff_e683_6886_a260_cd0b, 0xc000_96be_8ff9_a04c_ba02),
    (FPATAN, 0xc015_b571_810a_fc13_2d0d, 0xbffe_99c9_4309_570d_c195, 0xc000_c90f_da35_a432_37d1),
    (FPATAN, 0x3ffe_a6b9_4c7f_9118_bb16, 0xbfff_8687_39fa_9d1d_e2a0, 0xbfff_820d_c6ca_e125_a7a2),
    (FPATAN, 0xbffe_e050_914a_9d33_a01c, 0x3fff_d8ee_8571_f499_8d7c, 0x4000_8311_d9f4_95a1_de50),
    (FPATAN, 0x4000_9d87_cec3_1f72_96ab, 0xbfff_fbdc_968b_7afb_2c68, 0xbffe_aca4_14cf_44dd_09f0),
    (FPATAN, 0xbfff_bfea_a155_1a28_f7b3, 0x3fff_d42f_ddbb_7a86_f7a2, 0x4000_9396_bb6f_2c0f_dc21),
    (FYL2X, 0x3fe9_b488_f876_05e9_99f3, 0x4000_a587_be6b_5c9b_cf35, 0xc004_de78_a457_283a_7a40),
    (FYL2X, 0x3ffe_8732_2e25_c215_a82a, 0x3ffe_a496_36a2_fa7f_0eab, 0xbffe_9799_73a3_f92b_0a70),
    (FYL2X, 0x3ffe_dde0_0997_84b5_a818, 0xbffd_c59d_b916_5b0e_e76f, 0x3ffb_a326_0358_2efb_5592),
    (FYL2X, 0x3fff_b919_4242_a2ed_dbbd, 0x4000_c9d4_88b1_cfbf_3360, 0x3fff_d6ce_e48e_50ed_7a35),
    (FYL2X, 0x3fff_bd48_82a5_ce5b_2a92, 0x4002_bd68_5167_6693_4036, 0x4001_d5cd_e4c6_abcd_2853),
    (FYL2X, 0x4005_fe26_f36a_8483_f8b8, 0x3ffe_876b_3e36_bb23_13f5, 0x4000_eca1_1864_b1a5_57e8),
    (FYL2X, 0x04a8_f8e4_b98d_4787_f93b, 0x3ffe_b149_1e24_3192_b704, 0xc00c_a45d_bed7_3a2b_e80c),
    (FYL2X, 0x69d0_cefe_2a1f_727d_8349, 0x4001_d97a_1ecf_fcf0_0fec, 0x400f_8e1a_c9c3_d75f_7ceb),
    (FYL2X, 0x3fff_8000_0000_0000_0008, 0x4000_c000_0000_0000_0000, 0x3fc5_8a7f_ac5f_0511_f488),
    (FYL2XP1, 0xbfc8_b870_3800_149e_259b, 0xbfff_d675_f6ad_325b_55dd, 0x3fc9_dee9_821f_30a3_623f),
    (FYL2XP1, 0x3fea_e67a_9b75_fc39_4724, 0x3ffc_e8c1_4743_7abe_c539, 0x3fe9_9728_c283_e35e_9b76),
    (FYL2XP1, 0xbffa_a91c_2439_d5ab_8b4d, 0x3fff_b624_6771_c845_0070, 0xbffb_b145_6053_304e_c1a5),
    (FYL2XP1, 0xbffc_adb3_997f_e396_39be, 0x4001_9635_3d03_551f_d8f9, 0xbfff_a120_b70d_acb0_1f14),
    (FYL2XP1, 0x3ffd_e6c1_494e_7691_b06f, 0xbffc_a8aa_ca51_b98c_67c2, 0xbffb_b50f_cbf1_b197_ad16),
];

#[test]
fn results_are_the_exact_values_rounded() {
    for &(instruction, x, y, result) in VALUES {
        let mut bench = Bench::with_code(&[0xd9, instruction]);
        let cpu = &mut bench.cpu.cpu;
        cpu.rip = CODE;
        cpu.fpu.fsw = 3 << 11;
        cpu.fpu.ftw = 0b1_1000;
        cpu.fpu.regs[3] = x;
        cpu.fpu.regs[4] = y;
        bench.steps(1);
        // FPTAN pushes 1, the functions of two operands pop.
        let at = match instruction {
            FPATAN | FYL2X | FYL2XP1 => 4,
            _ => 3,
        };
        let fpu = &bench.cpu.cpu.fpu;
        assert_eq!(fpu.regs[at], result, "d9 {instruction:02x} {x:020x} {y:020x}: {:020x}", fpu.regs[at]);
    }
}
