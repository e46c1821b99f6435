//! Sampling against its definition, over all tokens and in f64.

use proptest::prelude::*;

use super::*;

fn choose(
    params: &SamplingParams,
    prompt: &[Token],
    output: &[Token],
    branch: u16,
    logits: &mut [f32],
) -> (Token, Option<Logprobs>) {
    super::choose(params, prompt, output, branch, logits, &mut Scratch::default())
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    // Few values, so that ties are common.
    prop::collection::vec((-8i8..9).prop_map(|l| f32::from(l) * 0.75), 1..24)
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let top_p = prop_oneof![Just(1.0f32), 0.05f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..0.6];
    let penalties = (0.5f32..2.0, -2.0f32..2.0, -2.0f32..2.0);
    (0.3f32..3.0, 0u32..30, top_p, min_p, penalties, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, (repeat, presence, frequency), seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: repeat,
            presence_penalty: presence,
            frequency_penalty: frequency,
            seed,
            ..SamplingParams::default()
        },
    )
}

/// Probabilities after every step, by the definition of each, over all tokens in f64; and whether a token is so near the
/// edge of a filter that rounding decides.
fn by_definition(
    p: &SamplingParams,
    prompt: &[Token],
    output: &[Token],
    logits: &[f32],
) -> (Vec<f64>, bool) {
    let n = logits.len();
    let mut l: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    for (t, x) in l.iter_mut().enumerate() {
        let count = output.iter().filter(|&&o| o as usize == t).count() as f64;
        if count > 0.0 || prompt.contains(&(t as Token)) {
            let repeat = f64::from(p.repetition_penalty);
            *x = if *x > 0.0 { *x / repeat } else { *x * repeat };
        }
        if count > 0.0 {
            *x -= f64::from(p.presence_penalty) + count * f64::from(p.frequency_penalty);
        }
        *x /= f64::from(p.temperature);
    }
    let softmax = |l: &[f64]| {
        let most = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = l.iter().map(|x| (x - most).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|x| x / sum).collect::<Vec<f64>>()
    };
    let all = softmax(&l);
    let best = all.iter().copied().fold(0.0, f64::max);
    let mut edge = false;
    for t in 0..n {
        let least = f64::from(p.min_p) * best;
        edge |= (all[t] - least).abs() < 1e-6;
        if all[t] < least {
            l[t] = f64::NEG_INFINITY;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| l[b].total_cmp(&l[a]).then(a.cmp(&b)));
    let k = p.top_k as usize;
    if k > 0 {
        edge |= k < n && (l[order[k - 1]] - l[order[k]]).abs() < 1e-4;
        order.iter().skip(k).for_each(|&t| l[t] = f64::NEG_INFINITY);
    }
    let rest = softmax(&l);
    let mut before = 0.0;
    for &t in &order {
        edge |= (before - f64::from(p.top_p)).abs() < 1e-4 && p.top_p < 1.0;
        if before >= f64::from(p.top_p) {
            l[t] = f64::NEG_INFINITY;
        }
        before += rest[t];
    }
    (softmax(&l), edge)
}

proptest! {
    /// Drawn at many evenly spaced points, each token comes up as often as its probability says.
    #[test]
    fn draws_follow_the_definition(
        logits in logits(),
        params in params(),
        prompt in prop::collection::vec(0u32..24, 1..5),
        output in prop::collection::vec(0u32..24, 0..6),
    ) {
        let (want, edge) = by_definition(&params, &prompt, &output, &logits);
        if edge {
            return Ok(());
        }
        let mut changed = logits.clone();
        penalise(&params, &prompt, &output, &mut changed);
        let mut got = vec![0.0; logits.len()];
        let (draws, mut scratch) = (1000, Scratch::default());
        for i in 0..draws {
            got[draw(&params, &changed, f64::from(i) / f64::from(draws), &mut scratch) as usize] += 1.0 / f64::from(draws);
        }
        let off: f64 = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).sum();
        let most = 0.001 * logits.len() as f64 + 1e-3;
        prop_assert!(off <= most, "{off}: {want:?} {got:?}");
    }

    #[test]
    fn no_temperature_takes_the_first_of_the_best(mut logits in logits()) {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|l| *l == best).unwrap() as Token;
        let greedy = SamplingParams::default();
        prop_assert_eq!(choose(&greedy, &[1], &[], 0, &mut logits.clone()).0, first);
        // A nucleus too small for two, or one candidate, comes to the same.
        let one = SamplingParams { temperature: 1.0, top_k: 1, ..SamplingParams::default() };
        prop_assert_eq!(choose(&one, &[1], &[], 0, &mut logits.clone()).0, first);
        let tip = SamplingParams { temperature: 1.0, top_p: 1e-6, ..SamplingParams::default() };
        prop_assert_eq!(choose(&tip, &[1], &[], 0, &mut logits).0, first);
    }

    #[test]
    fn log_probabilities_are_those_of_the_model(logits in logits(), params in params(), top in 0u32..6) {
        let params = SamplingParams { logprobs: Some(top), ..params };
        let (token, report) = choose(&params, &[1], &[2], 0, &mut logits.clone());
        let report = report.unwrap();
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let of = |t: Token| (f64::from(logits[t as usize]).exp() / sum).ln();
        prop_assert!((f64::from(report.chosen) - of(token)).abs() < 1e-4);
        prop_assert_eq!(report.top.len(), (top as usize).min(logits.len()));
        prop_assert!(report.top.is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)));
        for (t, logprob) in &report.top {
            prop_assert!((f64::from(*logprob) - of(*t)).abs() < 1e-4);
        }
        if let Some(last) = report.top.last() {
            let better = (0..logits.len() as Token).filter(|&t| of(t) > of(last.0) + 1e-9).count();
            prop_assert!(better < top as usize);
        }
    }

    #[test]
    fn forbidden_tokens_wait_for_the_least_length(mut logits in logits(), params in params()) {
        let forbidden: Arc<[Token]> = (0..logits.len() as Token - 1).collect();
        let params = SamplingParams { forbidden, min_tokens: 2, ..params };
        let last = logits.len() as Token - 1;
        prop_assert_eq!(choose(&params, &[0], &[0], 0, &mut logits).0, last);
    }
}

#[test]
fn a_stream_belongs_to_its_seed_branch_and_position() {
    let flat = vec![0.0; 1000];
    let token = |seed, branch, at: usize| {
        let params = SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() };
        choose(&params, &[1], &vec![0; at], branch, &mut flat.clone()).0
    };
    let run = |seed, branch| (0..50).map(|at| token(seed, branch, at)).collect::<Vec<_>>();
    assert_eq!(run(1, 0), run(1, 0));
    let differ = |a: &[Token], b: &[Token]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert!(differ(&run(1, 0), &run(1, 1)) > 45);
    assert!(differ(&run(1, 0), &run(2, 0)) > 45);
    assert!(run(1, 0).iter().collect::<HashSet<_>>().len() > 45, "positions differ too");
}

#[test]
fn broken_logits_give_some_token() {
    let params = SamplingParams { temperature: 1.0, top_p: 0.5, ..SamplingParams::default() };
    for logit in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        for params in [&params, &SamplingParams::default()] {
            assert!(choose(params, &[], &[], 0, &mut [logit; 5]).0 < 5);
        }
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let bad = SamplingParams { top_p: 0.0, ..SamplingParams::default() };
    assert_eq!(bad.check().unwrap_err(), "top_p = 0 must be above 0 and at most 1");
    let bad = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
    assert_eq!(bad.check().unwrap_err(), "temperature = NaN must be between 0 and 100");
    assert!(SamplingParams::default().check().is_ok());
}

#[test]
fn powers_are_those_of_the_standard_library() {
    for i in 0..200_000 {
        let x = -87.0 * i as f32 / 200_000.0;
        let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((got / want - 1.0).abs() < 2.5e-7, "{x}: {got} for {want}");
    }
    assert!(exp(f32::NEG_INFINITY) < NOTHING && exp(-86.0) > NOTHING && exp(0.0) == 1.0);
}

/// A device draws by temperature, top-k and top-p; every other parameter takes the logits.
#[test]
fn a_device_is_asked_only_for_what_it_can_do() {
    let plain = SamplingParams { temperature: 0.5, top_k: 7, top_p: 0.9, ..Default::default() };
    let draw = plain.on_device(3, 1).unwrap();
    assert_eq!((draw.inverse_temperature, draw.top_k, draw.top_p), (2.0, 7, 0.9));
    assert!((0.0..=1.0).contains(&draw.at));
    assert_eq!(plain.on_device(3, 1), Some(draw), "the same number for the same token");
    assert_ne!(plain.on_device(4, 1), Some(draw));
    assert_ne!(plain.on_device(3, 2), Some(draw));
    assert_eq!(SamplingParams::default().on_device(0, 0), Some(Draw::GREEDY));
    let forbidden: Arc<[Token]> = Arc::new([3]);
    let more = [
        SamplingParams { min_p: 0.1, ..plain.clone() },
        SamplingParams { repetition_penalty: 1.1, ..plain.clone() },
        SamplingParams { presence_penalty: 0.1, ..plain.clone() },
        SamplingParams { frequency_penalty: 0.1, ..plain.clone() },
        SamplingParams { logprobs: Some(0), ..plain.clone() },
        SamplingParams { offers: Some(1), ..plain.clone() },
        SamplingParams { min_tokens: 4, forbidden: Arc::clone(&forbidden), ..plain },
    ];
    assert!(more.iter().all(|params| params.on_device(3, 1).is_none()));
    let enough = SamplingParams { min_tokens: 3, forbidden, ..plain };
    assert_eq!(enough.on_device(3, 1), Some(draw), "nothing is forbidden any more");
}

#[test]
fn offers_are_the_likeliest_that_may_come() {
    let (logits, forbidden) = ([0.5, 2.0, -1.0, 2.0, 1.0], Arc::from([1]));
    let params = SamplingParams { forbidden, min_tokens: 2, ..SamplingParams::default() };
    let sum: f64 = logits.iter().map(|l: &f32| f64::from(*l).exp()).sum();
    let log = |logit: f64| (logit - sum.ln()) as f32;
    let near = |offers: &[Offer], tokens: &[(Token, f32)]| {
        offers.len() == tokens.len()
            && offers.iter().zip(tokens).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6)
    };
    let early = offer(&params, &[7], &mut logits.clone(), 3);
    assert!(near(&early, &[(3, log(2.0)), (4, log(1.0)), (0, log(0.5))]), "{early:?}");
    let late = offer(&params, &[7, 7], &mut logits.clone(), 2);
    assert!(near(&late, &[(1, log(2.0)), (3, log(2.0))]), "{late:?}");
    assert_eq!(offer(&params, &[], &mut logits.clone(), 99).len(), 4, "no more than there are");
}
