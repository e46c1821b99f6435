//! The tiles of one thread, and what instructions do to them: the pseudo-code of Intel's SDM, volume 2, and the
//! conditions of its exception classes AMX-E1 to AMX-E6 that a program can bring about.

/// Palette 1, the only one there is.
const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// Nothing, or the exception that the processor would raise.
pub(super) type Result = std::result::Result<(), &'static str>;

/// The configuration, and the content of the tiles.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    configured: bool,
    /// The row at which an interrupted load or store goes on.
    start_row: usize,
    shapes: [Shape; TILES],
    data: [[[u8; ROW_BYTES]; ROWS]; TILES],
}

/// Both zero for a tile that is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: usize,
    /// Bytes of a row.
    colsb: usize,
}

const UNUSED: Shape = Shape { rows: 0, colsb: 0 };

impl Tiles {
    pub(super) const fn new() -> Self {
        Self {
            configured: false,
            start_row: 0,
            shapes: [UNUSED; TILES],
            data: [[[0; ROW_BYTES]; ROWS]; TILES],
        }
    }

    /// LDTILECFG
    pub(super) fn configure(&mut self, config: &[u8; 64]) -> Result {
        let (palette, start_row) = (config[0], usize::from(config[1]));
        if palette == 0 {
            self.release();
            return Ok(());
        }
        if palette != 1 {
            return Err("#GP: LDTILECFG of a palette that does not exist");
        }
        let reserved = config[2..16].iter().chain(&config[16 + 2 * TILES..48]);
        if reserved.chain(&config[48 + TILES..]).any(|&byte| byte != 0) {
            return Err("#GP: LDTILECFG with a reserved byte that is not zero");
        }
        let mut shapes = [UNUSED; TILES];
        for (n, shape) in shapes.iter_mut().enumerate() {
            let colsb = u16::from_le_bytes([config[16 + 2 * n], config[17 + 2 * n]]);
            *shape = Shape { rows: config[48 + n].into(), colsb: colsb.into() };
            if shape.rows > ROWS || shape.colsb > ROW_BYTES {
                return Err("#GP: LDTILECFG of a tile that is too large");
            }
            if (shape.rows == 0) != (shape.colsb == 0) {
                return Err("#GP: LDTILECFG of rows without columns or columns without rows");
            }
        }
        *self = Self { configured: true, start_row, shapes, ..Self::new() };
        Ok(())
    }

    /// TILERELEASE
    pub(super) fn release(&mut self) {
        *self = Self::new();
    }

    /// TILEZERO
    pub(super) fn zero(&mut self, tile: u8) -> Result {
        self.shape(tile)?;
        self.data[tile as usize] = [[0; ROW_BYTES]; ROWS];
        self.start_row = 0;
        Ok(())
    }

    /// TILELOADD
    ///
    /// # Safety
    /// The rows from `start_row` on may be read.
    pub(super) unsafe fn load(&mut self, tile: u8, start: *const u8, stride: isize) -> Result {
        let Shape { rows, colsb } = self.shape(tile)?;
        let data = &mut self.data[tile as usize];
        for (r, row) in data.iter_mut().enumerate().skip(self.start_row) {
            *row = [0; ROW_BYTES];
            if r < rows {
                let from = start.wrapping_offset(r as isize * stride);
                std::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), colsb);
            }
        }
        self.start_row = 0;
        Ok(())
    }

    /// TILESTORED
    ///
    /// # Safety
    /// The rows from `start_row` on may be written.
    pub(super) unsafe fn store(&mut self, tile: u8, start: *mut u8, stride: isize) -> Result {
        let Shape { rows, colsb } = self.shape(tile)?;
        for r in self.start_row..rows {
            let to = start.wrapping_offset(r as isize * stride);
            std::ptr::copy_nonoverlapping(self.data[tile as usize][r].as_ptr(), to, colsb);
        }
        self.start_row = 0;
        Ok(())
    }

    /// TDPBSUD: adds to each i32 of `c` the dot products of signed bytes of a row of `a` and unsigned ones of a column of
    /// `b`, four of which lie together. Sums wrap.
    pub(super) fn dot_signed_unsigned(&mut self, c: u8, a: u8, b: u8) -> Result {
        if c == a || c == b || a == b {
            return Err("#UD: a product of fewer than three tiles");
        }
        let (of_c, of_a, of_b) = (self.shape(c)?, self.shape(a)?, self.shape(b)?);
        if [of_c, of_a, of_b].iter().any(|shape| shape.colsb % 4 != 0) {
            return Err("#UD: a product of tiles whose rows are not whole 32-bit words");
        }
        if of_c.rows != of_a.rows || of_c.colsb != of_b.colsb || of_a.colsb / 4 != of_b.rows {
            return Err("#UD: a product of tiles whose shapes do not go together");
        }
        let (a, b) = (self.data[a as usize], self.data[b as usize]);
        let c = &mut self.data[c as usize];
        for m in 0..ROWS {
            let mut row = [0u8; ROW_BYTES];
            if m < of_c.rows {
                for n in 0..of_c.colsb / 4 {
                    let word = &c[m][4 * n..4 * n + 4];
                    let mut sum = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    for k in 0..of_b.rows {
                        for i in 0..4 {
                            let (x, y) = (a[m][4 * k + i] as i8, b[k][4 * n + i]);
                            sum = sum.wrapping_add(i32::from(x) * i32::from(y));
                        }
                    }
                    row[4 * n..4 * n + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
            c[m] = row;
        }
        self.start_row = 0;
        Ok(())
    }

    fn shape(&self, tile: u8) -> std::result::Result<Shape, &'static str> {
        let shape = self.shapes[tile as usize];
        if !self.configured || shape == UNUSED {
            return Err("#UD: a tile that is not configured");
        }
        Ok(shape)
    }
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
