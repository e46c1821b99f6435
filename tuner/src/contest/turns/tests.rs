//! Races of servers whose capacity is known.

use super::*;
use crate::result::{Failure, Tried};
use crate::subject::fake::sustain;
use crate::subject::observation::Observation;
use crate::subject::server::Searched;
use crate::subject::unfit::Unfit;
use loadgen::{Recording, Slo, Summary};
use std::cell::Cell;
use std::collections::BTreeMap;

/// A configuration that carries `truth`, by `predicted` in simulation.
fn contender(truth: f64, predicted_rps: Option<f64>) -> Contender {
    let config = BTreeMap::from([("truth".to_owned(), truth.to_string())]);
    Contender { predicted_rps, ..Contender::new(format!("carries {truth}"), config) }
}

fn tried(rate_rps: f64, held: bool) -> Tried {
    let observation = Observation {
        summary: Summary::new(
            &Recording { records: Vec::new(), itl: Vec::new() },
            &Slo::default().bind(&[]).unwrap(),
        ),
        sustain: sustain(true),
        inside: None,
        outside: None,
        unfit: Unfit::default(),
    };
    let seen = Tried::of(rate_rps, &observation);
    Tried { held, offered_s: Some(8.0), seconds: 8.0, ..seen }
}

/// A search that tried `all`, of which those that held lie below those that failed.
fn searched(all: &[Tried], nothing: Standing) -> Searched {
    let rates = |held: bool| all.iter().filter(move |t| t.held == held).map(|t| t.rate_rps);
    Searched {
        standing: rates(true).reduce(f64::max).map_or(nothing, Standing::Carries),
        fails_at_rps: rates(false).reduce(f64::min),
        tried: all.to_vec(),
        note: None,
        best: None,
    }
}

/// The result of a search: the rate to beat first, then exactly the truth. Below 0 the server dies.
fn seen(contender: Contender, aim: &Aim) -> Contender {
    let truth: f64 = contender.config["truth"].parse().unwrap();
    if truth < 0.0 {
        let last_lines = vec!["out of memory".to_owned()];
        let standing = Standing::Failed(Failure { why: "it died".to_owned(), last_lines });
        return Contender { standing, ..contender };
    }
    let found = match aim.beat {
        Some(beat) if truth < beat => searched(&[tried(beat, false)], Standing::Beaten(beat)),
        beat => {
            let first = beat.map(|b| tried(b, true));
            let rest = [tried(truth, true), tried(truth * 1.01, false)];
            let all: Vec<Tried> = first.into_iter().chain(rest).collect();
            searched(&all, Standing::Nothing)
        }
    };
    Contender { ready_s: Some(1.0), ..found.of(contender).0 }
}

fn rules(budget: u64, in_full: bool) -> Rules {
    Rules { probe: None, budget: Duration::from_secs(budget), in_full }
}

fn race(contenders: Vec<Contender>, rules: Rules) -> (Answer, Vec<usize>) {
    let mut started = Vec::new();
    let answer = run("servers", contenders, rules, &|| true, &mut |i, contender, aim| {
        started.push(i);
        seen(contender, aim)
    });
    (answer, started)
}

#[test]
fn the_best_wins_and_a_failure_is_a_trial() {
    let all = [10.0, -1.0, 9.0, 10.2, 14.0, 12.0].map(|t| contender(t, None)).to_vec();
    let (answer, started) = race(all.clone(), rules(600, false));
    assert_eq!(started, [0, 1, 2, 3, 4, 5]);
    assert_eq!(answer.best().map(|(c, rps)| (c.label.as_str(), rps)), Some(("carries 14", 14.0)));
    assert_eq!((answer.capacity_rps, answer.fails_at_rps), (Some(14.0), Some(14.0 * 1.01)));
    let standings: Vec<&Standing> = answer.contenders.iter().map(|c| &c.standing).collect();
    assert!(matches!(standings[1], Standing::Failed(f) if f.last_lines == ["out of memory"]));
    assert_eq!(
        standings[2..4],
        [&Standing::Beaten(10.3), &Standing::Beaten(10.3)],
        "not told apart"
    );
    assert_eq!((standings[0], standings[4]), (&Standing::Carries(10.0), &Standing::Carries(14.0)));
    assert_eq!(answer.load_s, 8.0 * (2 + 1 + 1 + 3 + 1) as f64);
    let (in_full, _) = race(all, rules(600, true));
    assert_eq!(in_full.contenders[2].standing, Standing::Carries(9.0));
    let stored = serde_json::to_string(&answer).unwrap();
    assert_eq!(serde_json::from_str::<Answer>(&stored).unwrap(), answer);
}

#[test]
fn a_contender_that_the_residual_rules_out_is_not_started() {
    let all = vec![
        contender(10.0, None),
        contender(20.0, Some(40.0)),
        contender(15.0, Some(36.0)),
        contender(14.0, Some(30.0)),
    ];
    let (answer, started) = race(all, rules(600, false));
    assert_eq!((started, answer.residual), (vec![0, 1, 2], Some(0.5)));
    let last = &answer.contenders[3].standing;
    assert!(matches!(last, Standing::Untried(Some(why)) if why.contains("15.00")));
}

#[test]
fn a_spent_budget_and_an_interruption_keep_results() {
    let all = [10.0, 20.0, 30.0].map(|t| contender(t, None)).to_vec();
    let (answer, started) = race(all.clone(), rules(20, false));
    assert_eq!(started, [0, 1], "40 seconds were spent by then");
    assert_eq!(answer.best().unwrap().1, 20.0);
    let stop = Cell::new(false);
    let broken = &mut |i, contender: Contender, aim: &Aim| {
        stop.set(i == 1);
        match i {
            1 => {
                let standing = Standing::Failed(Failure::of(""));
                Contender { standing, tried: vec![tried(1.0, true)], ..contender }
            }
            _ => seen(contender, aim),
        }
    };
    let answer = run("servers", all, rules(600, false), &|| !stop.get(), broken);
    assert!(answer.interrupted && answer.best().unwrap().1 == 10.0);
    let interrupted = Standing::Untried(Some("interrupted".to_owned()));
    let rest = &answer.contenders[1..];
    assert!(rest.iter().all(|c| c.standing == interrupted), "no failure of the server's");
}

#[test]
fn the_end_of_a_search_before_its_time_is_told() {
    let all = vec![contender(1.0, None)];
    let answer = run("servers", all, rules(9, false), &|| true, &mut |_, contender, _| {
        let found = searched(&[tried(1.0, true)], Standing::Nothing);
        let note = Some("the server broke down".to_owned());
        Searched { note, ..found }.of(contender).0
    });
    assert_eq!(answer.contenders[0].standing, Standing::Carries(1.0));
    assert!(answer.doubts()[0].ends_with("ended early: the server broke down"));
    let stored = serde_json::to_string(&answer).unwrap();
    assert_eq!(serde_json::from_str::<Answer>(&stored).unwrap(), answer);
}

#[test]
fn nothing_holds_nothing_wins() {
    let all = vec![contender(1.0, None)];
    let answer = run("servers", all, rules(9, false), &|| true, &mut |_, contender, _| {
        searched(&[tried(1.0, false)], Standing::Nothing).of(contender).0
    });
    assert_eq!((answer.winner, &answer.contenders[0].standing), (None, &Standing::Nothing));
}
