//! The body of an answer: unpacked where it came packed, and told apart: a stream of events, or something else.
//!
//! The body's first bytes decide, not its content type: gateways lose that, and servers mislabel it.

use std::io::Write as _;

use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::http::{Packing, Response};
use super::sse::{self, Field, Lines};

/// Bytes kept of what is no event, for the message.
const KEPT: usize = 2_000;
/// Packed bytes unpacked at a time: what a few of them become stays small.
const PIECE: usize = 4 << 10;

/// A body in the course of arriving.
pub(crate) struct Body {
    unpacker: Option<Unpacker>,
    kind: Kind,
    lines: Lines,
    /// The beginning of bytes that are no event: a page, an error in JSON, a line that no standard
    /// knows.
    pub(crate) kept: Vec<u8>,
    /// Most bytes of that to keep.
    room: usize,
}

impl Default for Body {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    Events,
    Other,
}

enum Unpacker {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
}

impl Body {
    /// Of what is no event so many bytes are kept.
    pub(crate) fn keeping(room: usize) -> Self {
        Self {
            unpacker: None,
            kind: Kind::Unknown,
            lines: Lines::default(),
            kept: Vec::new(),
            room,
        }
    }

    /// Ready for another answer.
    pub(crate) fn reset(&mut self) {
        self.lines.reset();
        self.kept.clear();
        (self.unpacker, self.kind) = (None, Kind::Unknown);
    }

    /// True where it is a stream of events.
    pub(crate) fn is_stream(&self) -> bool {
        self.kind == Kind::Events
    }

    /// Takes in a piece as it came and passes on the lines in it.
    ///
    /// # Errors
    /// A body that cannot be unpacked, or a line of it that is too long.
    pub(crate) fn feed(
        &mut self,
        head: &Response,
        piece: &[u8],
        take: &mut impl FnMut(Field<'_>),
    ) -> Result<(), String> {
        if head.packing == Packing::None {
            return self.plain(head, piece, take);
        }
        let mut unpacker = match self.unpacker.take() {
            Some(unpacker) => unpacker,
            None => Unpacker::of(head.packing)?,
        };
        for piece in piece.chunks(PIECE) {
            let unpacked = unpacker
                .unpack(piece)
                .map_err(|e| format!("a packed body that does not unpack: {e}"))?;
            self.plain(head, &unpacked, take)?;
        }
        self.unpacker = Some(unpacker);
        Ok(())
    }

    fn plain(
        &mut self,
        head: &Response,
        piece: &[u8],
        take: &mut impl FnMut(Field<'_>),
    ) -> Result<(), String> {
        match self.kind {
            Kind::Events => return self.events(piece, take),
            Kind::Other => self.keep(piece),
            Kind::Unknown if head.events && head.succeeded() => {
                self.kind = Kind::Events;
                return self.events(piece, take);
            }
            Kind::Unknown => {
                let before = self.kept.len();
                self.keep(piece);
                self.kind = match sse::begins(&self.kept).filter(|_| head.succeeded()) {
                    Some(true) => Kind::Events,
                    None if head.succeeded() && self.kept.len() < self.room => Kind::Unknown,
                    _ => Kind::Other,
                };
                if self.kind == Kind::Events {
                    let mut early = std::mem::take(&mut self.kept);
                    early.truncate(before);
                    self.events(&early, take)?;
                    self.events(piece, take)?;
                }
            }
        }
        Ok(())
    }

    fn events(&mut self, piece: &[u8], take: &mut impl FnMut(Field<'_>)) -> Result<(), String> {
        let Self { lines, kept, room, .. } = self;
        lines.feed(piece, &mut |field| keeping((kept, *room), field, take))
    }

    /// The body has ended.
    pub(crate) fn end(&mut self, take: &mut impl FnMut(Field<'_>)) {
        let Self { lines, kept, room, .. } = self;
        lines.end(&mut |field| keeping((kept, *room), field, take));
    }

    fn keep(&mut self, piece: &[u8]) {
        keep((&mut self.kept, self.room), piece);
    }
}

/// Passes a field on, and keeps it if the standard does not have it.
fn keeping(
    (kept, room): (&mut Vec<u8>, usize),
    field: Field<'_>,
    take: &mut impl FnMut(Field<'_>),
) {
    if let Field::Stray(line) = field {
        keep((kept, room), line);
        keep((kept, room), b"\n");
    }
    take(field);
}

fn keep((kept, room): (&mut Vec<u8>, usize), piece: &[u8]) {
    let room = room.saturating_sub(kept.len());
    kept.extend_from_slice(&piece[..piece.len().min(room)]);
}

impl Unpacker {
    fn of(packing: Packing) -> Result<Self, String> {
        match packing {
            Packing::Gzip => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            Packing::Zlib => Ok(Self::Zlib(Box::new(ZlibDecoder::new(Vec::new())))),
            Packing::None | Packing::Other => {
                Err("a body in a content-encoding that was not asked for".to_owned())
            }
        }
    }

    /// The bytes that `piece` unpacks to.
    fn unpack(&mut self, piece: &[u8]) -> std::io::Result<Vec<u8>> {
        Ok(match self {
            Self::Gzip(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                std::mem::take(decoder.get_mut())
            }
            Self::Zlib(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                std::mem::take(decoder.get_mut())
            }
        })
    }
}
