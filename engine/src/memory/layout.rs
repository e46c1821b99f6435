//! The layout of KV memory: the layers that share a page list, and the size of a page.
//!
//! It is vLLM's (`v1/core/kv_cache_utils.py`). Layers that all keep the same tokens are one group. Otherwise a page has
//! the same bytes in every group and a group the same number of layers, those of the rarest kind, so that every page
//! can serve any group: kinds with more layers are several groups, and the last may be padded with layers that are not
//! there. If a linear layer's state is larger than a page, pages have more tokens until it fits. If a page of one kind
//! is no multiple of another's, the smaller is padded.
//!
//! Without pages, and where KV moves between workers, all layers are one group: windows keep the whole context, and
//! every seat has its states reserved.

use crate::config::{AllocatorKind, Config, KvDtype};
use crate::kv::{Group, Reach, page_slots};
use crate::model::{Layer, ModelShape};

/// Layers that keep the same of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    reach: Reach,
    /// Of a token, or of the state, in one layer of one rank.
    bytes: u64,
    layers: u32,
    groups: u32,
}

/// The layout of KV memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    /// The groups, those that keep all tokens first, those with a state last.
    pub groups: Vec<Group>,
    kinds: Vec<Kind>,
    /// Bytes of a layer's page where there are several groups.
    page: Option<u64>,
    kv: KvDtype,
    tp: u32,
    /// True where states are reserved for every seat.
    seats: bool,
}

impl KvLayout {
    /// The layout of `model` under `config`.
    #[must_use]
    pub fn new(model: &ModelShape, config: &Config) -> Self {
        let (kv, tp, block) = (config.kv_dtype, config.tp.max(1), config.block_size.max(1));
        let paged =
            config.allocator == AllocatorKind::Paged && !config.scheduler.traits().disaggregates;
        let kinds = kinds(model, kv, tp);
        let reaches = |reach: fn(&Reach) -> bool| kinds.iter().any(|kind| reach(&kind.reach));
        let alike = kinds.iter().all(|kind| kind.reach == kinds[0].reach);
        let state = reaches(|reach| *reach == Reach::State);
        if !paged || kinds.is_empty() || (alike && !state) {
            let reach =
                if paged { kinds.first().map_or(Reach::All, |k| k.reach) } else { Reach::All };
            let groups = vec![Group { reach, block }];
            return Self { groups, kinds, page: None, kv, tp, seats: true };
        }
        Self::grouped(kinds, kv, tp, block)
    }

    fn grouped(mut kinds: Vec<Kind>, kv: KvDtype, tp: u32, block: u32) -> Self {
        let is_state = |kind: &&Kind| kind.reach == Reach::State;
        let state = kinds.iter().filter(is_state).map(|kind| kind.bytes).max().unwrap_or(0);
        let token = kinds.iter().filter(|k| !is_state(k)).map(|kind| kind.bytes).max();
        // More tokens a page, in whole blocks, until a state fits.
        let blocks = token.map_or(1, |token| state.div_ceil(token * u64::from(block)).max(1));
        let base = u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(block);
        let page = token.map_or(state, |token| token * u64::from(base));
        let (least, most) = (
            kinds.iter().map(|kind| kind.layers).min().unwrap_or(1),
            kinds.iter().map(|kind| kind.layers).max().unwrap_or(1),
        );
        // Padding the rarer kind takes less than splitting the other, if they are about as frequent.
        let size = if 2 * most < 3 * least { most } else { least };
        kinds.sort_by_key(|kind| match kind.reach {
            Reach::All => 0,
            Reach::Window(_) => 1,
            Reach::State => 2,
        });
        let mut groups = Vec::new();
        for kind in &mut kinds {
            kind.groups = kind.layers.div_ceil(size);
            let own = kind.bytes * u64::from(base);
            let times =
                if page.is_multiple_of(own) && kind.reach != Reach::State { page / own } else { 1 };
            let block = u32::try_from(times).unwrap_or(1).saturating_mul(base);
            let group = Group { reach: kind.reach, block };
            groups.extend(std::iter::repeat_n(group, kind.groups as usize));
        }
        Self { groups, kinds, page: Some(page), kv, tp, seats: false }
    }

    /// Bytes of a page over all layers of a group, on one rank of stage `stage` of `pp`; none where all layers are one
    /// group, whose memory is counted by tokens.
    fn page_bytes(&self, model: &ModelShape, pp: u32, stage: u32) -> Option<u64> {
        let page = self.page?;
        // Layers of a kind go to its groups in turn.
        let most = self.kinds.iter().map(|kind| {
            let here = model.layers.stage_groups(pp, stage);
            let own = here.filter(|(_, layer)| {
                kept(model, layer, self.kv, self.tp) == Some((kind.reach, kind.bytes))
            });
            own.map(|(count, _)| count).sum::<u32>().div_ceil(kind.groups)
        });
        Some(page * u64::from(most.max().unwrap_or(0)))
    }

    /// Slots that `bytes` of memory hold on one rank of stage `stage` of `pp`.
    #[must_use]
    pub fn slots_in(&self, bytes: u64, model: &ModelShape, pp: u32, stage: u32) -> u64 {
        match self.page_bytes(model, pp, stage) {
            Some(page) => bytes / page.max(1) * u64::from(page_slots(&self.groups)),
            None => bytes / model.stage_kv_bytes(self.kv, self.tp, pp, stage).max(1),
        }
    }

    /// Bytes of states to set aside for each seat on one rank of stage `stage` of `pp`; 0 where they are in pages.
    #[must_use]
    pub fn seat_bytes(&self, model: &ModelShape, pp: u32, stage: u32) -> u64 {
        if self.seats { model.stage_state_bytes(self.tp, pp, stage) } else { 0 }
    }

    /// Slots that a sequence of `tokens` tokens holds while it decodes.
    #[must_use]
    pub fn slots(&self, tokens: u32) -> u64 {
        let size = u64::from(page_slots(&self.groups));
        let of = |group: &Group| match group.reach {
            Reach::State => size,
            _ => {
                let held = group.kept().saturating_add(1).saturating_mul(group.block).min(tokens);
                u64::from(held) * (size / u64::from(group.block))
            }
        };
        self.groups.iter().map(of).sum()
    }

    /// Bytes that a sequence of `tokens` tokens holds while it decodes, in whole pages, on one rank of a single stage.
    #[must_use]
    pub fn sequence_bytes(&self, model: &ModelShape, tokens: u32) -> u64 {
        match self.page_bytes(model, 1, 0) {
            None => {
                let token = model.kv_bytes_per_token(self.kv, self.tp);
                self.slots(tokens) * token + self.seat_bytes(model, 1, 0)
            }
            Some(page) => {
                let pages = |g: &Group| u64::from(g.end(tokens) - g.behind(tokens));
                page * self.groups.iter().map(pages).sum::<u64>()
            }
        }
    }

    /// In words, where there are several groups: groups, their layers and the tokens of a page.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let Some(page) = self.page else { return Vec::new() };
        let line = |kind: &Kind| {
            let (groups, layers) = (kind.groups, kind.layers);
            let block = self.groups.iter().find(|g| g.reach == kind.reach).map_or(0, |g| g.block);
            let what = match kind.reach {
                Reach::All => format!("all tokens, {block} a page"),
                Reach::Window(window) => format!("the last {window} tokens, {block} a page"),
                Reach::State => "a state of one page".to_owned(),
            };
            let own =
                if kind.reach == Reach::State { kind.bytes } else { kind.bytes * u64::from(block) };
            let padded = page.saturating_sub(own) as f64 / page as f64;
            let padding = if padded > 0.0005 {
                format!(", {:.1} % of it padding", padded * 100.0)
            } else {
                String::new()
            };
            format!("{groups} x {} of {layers} layers: {what}{padding}", layers.div_ceil(groups))
        };
        self.kinds.iter().map(line).collect()
    }
}

/// The part of a sequence that a layer of `model` keeps: the tokens, and the bytes of one, or of a state. A window as
/// long as the context is none.
fn kept(model: &ModelShape, layer: &Layer, kv: KvDtype, tp: u32) -> Option<(Reach, u64)> {
    let attention = layer.attention.as_ref()?;
    let (token, state) = (attention.kv_bytes(kv, tp), attention.state_bytes(tp));
    match attention.window().filter(|window| *window < model.max_context) {
        _ if state > 0 => Some((Reach::State, state)),
        _ if token == 0 => None,
        Some(window) => Some((Reach::Window(window), token)),
        None => Some((Reach::All, token)),
    }
}

/// The kinds of layers that keep anything, in the order in which they first come.
fn kinds(model: &ModelShape, kv: KvDtype, tp: u32) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for (layers, layer) in model.layers.groups() {
        let Some((reach, bytes)) = kept(model, layer, kv, tp) else { continue };
        match kinds.iter_mut().find(|kind| (kind.reach, kind.bytes) == (reach, bytes)) {
            Some(kind) => kind.layers += layers,
            None => kinds.push(Kind { reach, bytes, layers, groups: 1 }),
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(model: &str, edits: &[(&str, &str)]) -> (ModelShape, KvLayout) {
        let mut config = Config::default();
        edits.iter().for_each(|(knob, value)| config.set(knob, value).unwrap());
        let model = ModelShape::load(model).unwrap();
        let layout = KvLayout::new(&model, &config);
        (model, layout)
    }

    fn window(window: u32) -> Group {
        Group { reach: Reach::Window(window), block: 16 }
    }

    #[test]
    fn layers_alike_are_one_group() {
        for model in ["llama-3.1-8b", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2"] {
            let (model, layout) = layout(model, &[]);
            assert_eq!(layout.groups, [Group::all(16)]);
            assert_eq!(layout.slots(1000), 1000);
            let token = model.kv_bytes_per_token(KvDtype::Bf16, 1);
            assert_eq!(layout.slots_in(77 * token + 5, &model, 1, 0), 77);
            assert_eq!(layout.sequence_bytes(&model, 1000), 1000 * token);
        }
    }

    #[test]
    fn gpt_oss_is_two_groups_of_half_its_layers() {
        let (model, layout) = layout("openai/gpt-oss-120b", &[]);
        assert_eq!(layout.groups, [Group::all(16), window(128)]);
        // 18 layers of 8 heads of 64, keys and values, 16 tokens.
        let page = 18 * 16 * 2 * 8 * 64 * 2;
        assert_eq!(layout.page_bytes(&model, 1, 0), Some(page));
        // Eight pages of the window, and the one being filled.
        assert_eq!(layout.sequence_bytes(&model, 16 * 64 + 1), (65 + 9) * page);
        assert_eq!(layout.slots(131_072), 131_072 + 9 * 16);
        assert_eq!(layout.slots_in(10 * page + 1, &model, 1, 0), 160);
        // Layers alternate: on three stages of twelve, six of each.
        assert_eq!(layout.page_bytes(&model, 3, 1), Some(page / 3));
    }

    #[test]
    fn kinds_with_more_layers_are_several_groups() {
        let (model, layout) = layout("google/gemma-3-27b-it", &[]);
        let windows = [window(1024); 6];
        assert_eq!(layout.groups, [&[Group::all(16)][..], &windows].concat());
        // Ten of its 62 layers keep all tokens; 52 in six groups are padded to ten each.
        let page = 10 * 16 * 2 * 16 * 128 * 2;
        assert_eq!(layout.page_bytes(&model, 1, 0), Some(page));
        assert_eq!(layout.slots(100_000), 100_000 + 6 * (1024 + 16));
    }

    #[test]
    fn pages_hold_more_tokens_until_a_state_fits() {
        let (model, layout) = layout("Qwen/Qwen3.5-35B-A3B", &[]);
        // A state of 32 x 128 x 128 in float32 and its convolution; 2,048 bytes a token and layer.
        let block = (32 * 128 * 128 * 4 + 3 * 8192 * 2_u32).div_ceil(2048 * 16) * 16;
        assert_eq!(block, 1056);
        let state = Group { reach: Reach::State, block };
        assert_eq!(layout.groups, [Group::all(block), state, state, state]);
        assert_eq!(layout.seat_bytes(&model, 1, 0), 0);
        assert_eq!(layout.slots(10_000), 10_000 + 3 * u64::from(block));
        let page = 10 * 2048 * u64::from(block);
        assert_eq!(layout.sequence_bytes(&model, 10), 4 * page);
    }

    #[test]
    fn without_pages_all_layers_are_one_group() {
        for policy in ["continuous", "static", "disagg"] {
            let (_, layout) = layout("openai/gpt-oss-120b", &[("policy", policy)]);
            assert_eq!(layout.groups, [Group::all(16)]);
        }
    }
}
