//! The rules of configurations, what is zeroed, and products against plain loops.

use proptest::prelude::*;

use super::*;

/// A configuration: rows and bytes of a row, by tile.
fn config(tiles: &[(u8, u16)]) -> [u8; 64] {
    let mut config = [0; 64];
    config[0] = 1;
    for (n, &(rows, colsb)) in tiles.iter().enumerate() {
        config[48 + n] = rows;
        config[16 + 2 * n..18 + 2 * n].copy_from_slice(&colsb.to_le_bytes());
    }
    config
}

fn configured(tiles: &[(u8, u16)]) -> Tiles {
    let mut state = Tiles::new();
    state.configure(&config(tiles)).unwrap();
    state
}

#[test]
fn bad_configurations_are_refused() {
    let good = config(&[(16, 64), (1, 1), (0, 0), (3, 20)]);
    assert_eq!(Tiles::new().configure(&good), Ok(()));
    let changed = |at: usize, to: u8| {
        let mut config = good;
        config[at] = to;
        let mut state = configured(&[(2, 8)]);
        let before = format!("{state:?}");
        let result = state.configure(&config);
        assert!(result.is_ok() || before == format!("{state:?}"), "a refused one changes nothing");
        result
    };
    assert!(changed(0, 2).unwrap_err().contains("palette"));
    for at in (2..16).chain(32..48).chain(56..64) {
        assert!(changed(at, 1).unwrap_err().contains("reserved"), "byte {at}");
    }
    assert!(changed(48, 17).unwrap_err().contains("too large"));
    assert!(changed(16, 65).unwrap_err().contains("too large"));
    assert!(changed(17, 1).unwrap_err().contains("too large"));
    assert!(changed(48, 0).unwrap_err().contains("without rows"));
    assert!(changed(18, 0).unwrap_err().contains("without columns"));
    // A whole row of 64 bytes, in the last tile.
    assert_eq!(Tiles::new().configure(&config(&[(1, 64); TILES])), Ok(()));
}

#[test]
fn tiles_that_are_not_configured_are_refused() {
    let refused = Err("#UD: a tile that is not configured");
    let mut bytes = [0u8; 1024];
    let at = bytes.as_mut_ptr();
    let released = {
        let mut state = configured(&[(16, 64); TILES]);
        state.release();
        state
    };
    let of_palette_0 = {
        let mut state = configured(&[(16, 64); TILES]);
        state.configure(&[0; 64]).unwrap();
        state
    };
    for mut state in [Tiles::new(), configured(&[(16, 64), (16, 64)]), released, of_palette_0] {
        assert_eq!(state.zero(2), refused);
        // SAFETY: nothing is read or written.
        assert_eq!(unsafe { state.load(2, at, 64) }, refused);
        // SAFETY: as above.
        assert_eq!(unsafe { state.store(2, at, 64) }, refused);
        assert_eq!(state.dot_signed_unsigned(0, 1, 2), refused);
    }
}

#[test]
fn shapes_that_do_not_go_together_are_refused() {
    let product = |c, a, b| configured(&[c, a, b]).dot_signed_unsigned(0, 1, 2);
    assert_eq!(product((3, 20), (3, 8), (2, 20)), Ok(()));
    for (c, a, b) in [
        ((4, 20), (3, 8), (2, 20)),
        ((3, 24), (3, 8), (2, 20)),
        ((3, 20), (3, 12), (2, 20)),
        ((3, 20), (3, 8), (3, 20)),
    ] {
        assert!(product(c, a, b).unwrap_err().contains("shapes"));
    }
    assert!(product((3, 20), (3, 9), (2, 20)).unwrap_err().contains("words"));
    let mut square = configured(&[(4, 16); 3]);
    for (c, a, b) in [(0, 0, 1), (0, 1, 0), (0, 1, 1)] {
        assert!(square.dot_signed_unsigned(c, a, b).unwrap_err().contains("three tiles"));
    }
}

/// Loads zero what is beyond the rows and columns, configuring zeroes everything, and start rows are done with once
/// they were used.
#[test]
fn zeroes() {
    let bytes: Vec<u8> = (0..ROWS * 100).map(|i| i as u8 | 1).collect();
    let mut state = configured(&[(5, 7)]);
    state.data[0] = [[0xff; ROW_BYTES]; ROWS];
    // SAFETY: there are as many bytes.
    unsafe { state.load(0, bytes.as_ptr(), 100) }.unwrap();
    for r in 0..ROWS {
        for c in 0..ROW_BYTES {
            let want = if r < 5 && c < 7 { bytes[100 * r + c] } else { 0 };
            assert_eq!(state.data[0][r][c], want, "row {r}, byte {c}");
        }
    }
    // Rows may go backwards.
    // SAFETY: there are as many bytes.
    unsafe { state.load(0, bytes[400..].as_ptr(), -100) }.unwrap();
    assert_eq!(state.data[0][4][..7], bytes[..7]);
    let mut to = [9u8; 5 * 8];
    // SAFETY: there are as many bytes.
    unsafe { state.store(0, to.as_mut_ptr(), 8) }.unwrap();
    for r in 0..5 {
        assert_eq!(to[8 * r..8 * r + 7], bytes[400 - 100 * r..407 - 100 * r]);
        assert_eq!(to[8 * r + 7], 9, "not a column");
    }
    let mut later = config(&[(5, 7)]);
    later[1] = 3;
    state.configure(&later).unwrap();
    assert_eq!(state.data, Tiles::new().data);
    state.data[0] = [[0xff; ROW_BYTES]; ROWS];
    // SAFETY: there are as many bytes.
    unsafe { state.load(0, bytes.as_ptr(), 100) }.unwrap();
    assert_eq!(state.data[0][2], [0xff; ROW_BYTES], "before the start");
    assert_eq!(state.data[0][3][..7], bytes[300..307]);
    assert_eq!((state.data[0][5], state.start_row), ([0; ROW_BYTES], 0));
    state.zero(0).unwrap();
    assert_eq!(state.data, Tiles::new().data);
}

fn i32_at(row: &[u8; ROW_BYTES], n: usize) -> i32 {
    i32::from_le_bytes(row[4 * n..4 * n + 4].try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Products are sums of products; what is beyond the rows and columns of the sums is zero.
    #[test]
    fn products(m in 1..=16usize, n in 1..=16usize, k in 1..=16usize, bytes in prop::collection::vec(any::<u8>(), 3072)) {
        let mut state = configured(&[(m as u8, 4 * n as u16), (m as u8, 4 * k as u16), (k as u8, 4 * n as u16)]);
        let stride = ROW_BYTES as isize;
        let (x, w) = (&bytes[1024..2048], &bytes[2048..]);
        for (tile, from) in [(0, &bytes[..1024]), (1, x), (2, w)] {
            // SAFETY: each is a whole tile.
            unsafe { state.load(tile, from.as_ptr(), stride) }.unwrap();
        }
        let before = state.data[0];
        state.data[0][ROWS - 1][ROW_BYTES - 1] |= u8::from(m < ROWS || n < ROWS);
        state.dot_signed_unsigned(0, 1, 2).unwrap();
        for row in 0..ROWS {
            for column in 0..ROWS {
                // x is [m][4 k], w is [k][n][4].
                let dot: i64 = (0..4 * k).map(|i| {
                    let x = x[ROW_BYTES * row + i] as i8;
                    i64::from(x) * i64::from(w[ROW_BYTES * (i / 4) + 4 * column + i % 4])
                }).sum();
                let sum = (i64::from(i32_at(&before[row], column)) + dot) as i32;
                let want = if row < m && column < n { sum } else { 0 };
                prop_assert_eq!(i32_at(&state.data[0][row], column), want);
            }
        }
    }
}
