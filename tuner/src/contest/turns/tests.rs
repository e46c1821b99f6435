//! Races of servers whose capacity is known.

use super::*;
use crate::subject::server::Found;
use std::cell::Cell;

/// A configuration that carries `truth`, by `predicted` in simulation.
fn candidate(truth: f64, predicted: Option<f64>) -> Candidate {
    let knobs = BTreeMap::from([("truth".to_owned(), truth.to_string())]);
    let label = format!("carries {truth}");
    Candidate { label, knobs, flags: String::new(), predicted_rps: predicted }
}

fn shot(rate_rps: f64, passed: bool) -> Shot {
    let (finished_rps, why, limit) = (None, String::new(), None);
    let (offered_s, seconds, steady) = (8.0, 8.0, true);
    Shot { rate_rps, passed, offered_s, steady, seconds, finished_rps, why, limit }
}

/// A search that tried `shots`, of which those that passed lie below those that failed.
fn found(shots: &[Shot]) -> Found {
    let rates = |passed: bool| {
        let such = shots.iter().filter(move |s| s.passed == passed);
        such.map(|s| s.rate_rps)
    };
    Found {
        capacity_rps: rates(true).reduce(f64::max),
        fails_at_rps: rates(false).reduce(f64::min),
        load_s: shots.iter().map(|s| s.seconds).sum(),
        shots: shots.to_vec(),
        note: None,
    }
}

/// What a search of it shows: the rate to beat first, then exactly the truth. Below 0 the server dies.
fn seen(candidate: &Candidate, aim: &Aim) -> Seen {
    let truth: f64 = candidate.knobs["truth"].parse().unwrap();
    let shots = match aim.beat {
        Some(beat) if truth < beat => vec![shot(beat, false)],
        beat => {
            let first = beat.map(|b| shot(b, true));
            first.into_iter().chain([shot(truth, true), shot(truth * 1.01, false)]).collect()
        }
    };
    let searched = if truth > 0.0 {
        Ok(Searched { found: found(&shots), best: None })
    } else {
        Err(Failure { why: "it died".to_owned(), last_lines: vec!["out of memory".to_owned()] })
    };
    Seen { searched, ready_s: Some(1.0), log: None, shots: Vec::new() }
}

fn rules(budget: u64, in_full: bool) -> Rules {
    Rules { probe: None, budget: Duration::from_secs(budget), in_full }
}

fn run(candidates: Vec<Candidate>, rules: Rules) -> (Race, Vec<usize>) {
    let mut started = Vec::new();
    let race = Race::run(candidates, rules, &|| true, &mut |i, candidate, aim| {
        started.push(i);
        seen(candidate, aim)
    });
    (race, started)
}

#[test]
fn the_best_wins_and_a_failure_is_a_trial() {
    let all = [10.0, -1.0, 9.0, 10.2, 14.0, 12.0].map(|t| candidate(t, None)).to_vec();
    let (race, started) = run(all.clone(), rules(600, false));
    assert_eq!(started, [0, 1, 2, 3, 4, 5]);
    assert_eq!(
        race.best().map(|(t, rps)| (t.candidate.label.as_str(), rps)),
        Some(("carries 14", 14.0))
    );
    let outcomes: Vec<&Outcome> = race.trials.iter().map(|t| &t.outcome).collect();
    assert!(matches!(outcomes[1], Outcome::Failed(f) if f.last_lines == ["out of memory"]));
    assert_eq!(outcomes[2..4], [&Outcome::Beaten(10.3), &Outcome::Beaten(10.3)], "not told apart");
    assert_eq!((outcomes[0], outcomes[4]), (&Outcome::Carries(10.0), &Outcome::Carries(14.0)));
    assert_eq!(race.load_s, 8.0 * (2 + 1 + 1 + 3 + 1) as f64);
    let (in_full, _) = run(all, rules(600, true));
    assert_eq!(in_full.trials[2].outcome, Outcome::Carries(9.0));
    let stored = serde_json::to_string(&race).unwrap();
    assert_eq!(serde_json::from_str::<Race>(&stored).unwrap(), race);
}

#[test]
fn what_the_residual_rules_out_is_not_started() {
    let all = vec![
        candidate(10.0, None),
        candidate(20.0, Some(40.0)),
        candidate(15.0, Some(36.0)),
        candidate(14.0, Some(30.0)),
    ];
    let (race, started) = run(all, rules(600, false));
    assert_eq!((started, race.residual), (vec![0, 1, 2], Some(0.5)));
    assert!(matches!(&race.trials[3].outcome, Outcome::Untried(why) if why.contains("15.00")));
}

#[test]
fn a_spent_budget_and_an_interruption_keep_what_was_found() {
    let all = [10.0, 20.0, 30.0].map(|t| candidate(t, None)).to_vec();
    let (race, started) = run(all.clone(), rules(20, false));
    assert_eq!(started, [0, 1], "40 seconds were spent by then");
    assert_eq!(race.best().unwrap().1, 20.0);
    let stop = Cell::new(false);
    let race = Race::run(all, rules(600, false), &|| !stop.get(), &mut |i, candidate, aim| {
        stop.set(i == 1);
        match i {
            1 => Seen {
                searched: Err(Failure { why: String::new(), last_lines: Vec::new() }),
                ready_s: None,
                log: None,
                shots: vec![shot(1.0, true)],
            },
            _ => seen(candidate, aim),
        }
    });
    assert!(race.interrupted && race.best().unwrap().1 == 10.0);
    let interrupted = Outcome::Untried("interrupted".to_owned());
    assert!(
        race.trials[1..].iter().all(|t| t.outcome == interrupted),
        "no failure of the server's"
    );
}

#[test]
fn the_end_of_a_search_before_its_time_is_told() {
    let note = Some("the server broke down".to_owned());
    let broken = Found { note: note.clone(), ..found(&[shot(1.0, true)]) };
    let mut broken = Some(Seen {
        searched: Ok(Searched { found: broken, best: None }),
        ready_s: None,
        log: None,
        shots: Vec::new(),
    });
    let race = Race::run(vec![candidate(1.0, None)], rules(9, false), &|| true, &mut |_, _, _| {
        broken.take().unwrap()
    });
    assert_eq!((&race.trials[0].outcome, &race.trials[0].note), (&Outcome::Carries(1.0), &note));
    let stored = serde_json::to_string(&race).unwrap();
    assert_eq!(serde_json::from_str::<Race>(&stored).unwrap(), race);
}

#[test]
fn nothing_holds_nothing_wins() {
    let none = Searched { found: found(&[shot(1.0, false)]), best: None };
    let mut none = Some(Seen { searched: Ok(none), ready_s: None, log: None, shots: Vec::new() });
    let race = Race::run(vec![candidate(1.0, None)], rules(9, false), &|| true, &mut |_, _, _| {
        none.take().unwrap()
    });
    assert_eq!((race.winner, &race.trials[0].outcome), (None, &Outcome::Nothing));
}
