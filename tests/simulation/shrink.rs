//! Makes a plan that fails as short as it still fails.

use std::time::{Duration, Instant};

use crate::plan::{Plan, Speech};
use crate::scenario::try_run;

const FOR: Duration = Duration::from_secs(10);

/// A shorter plan that fails too; each change is kept that leaves it failing.
pub(crate) fn shrink(plan: &Plan) -> Plan {
    let give_up = Instant::now() + FOR;
    let mut short = plan.clone();
    loop {
        let shorter = changes(&short)
            .into_iter()
            .take_while(|_| Instant::now() < give_up)
            .find(|changed| try_run(changed, None, false).is_err());
        match shorter {
            Some(changed) => short = changed,
            None => return short,
        }
    }
}

/// All plans that are shorter by one thing.
fn changes(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut changed = plan.clone();
        change(&mut changed);
        all.push(changed);
    };
    if plan.clients.len() > 1 {
        for index in 0..plan.clients.len() {
            with(&|plan| {
                plan.clients.remove(index);
            });
        }
    }
    for index in 0..plan.reloads.len() {
        with(&|plan| {
            plan.reloads.remove(index);
        });
    }
    if plan.drain.is_some() {
        with(&|plan| plan.drain = None);
    }
    if plan.habits.fails_one_in > 0 {
        with(&|plan| plan.habits.fails_one_in = 0);
    }
    if plan.habits.reorders {
        with(&|plan| plan.habits.reorders = false);
    }
    if plan.habits.turn_us > 0 {
        with(&|plan| plan.habits.turn_us = 0);
    }
    if plan.habits.buffers < 64 {
        with(&|plan| plan.habits.buffers = 64);
    }
    for index in 0..plan.clients.len() {
        let client = &plan.clients[index];
        if let Speech::Http1(requests, _) = &client.speech
            && requests.len() > 1
        {
            with(&|plan| {
                if let Speech::Http1(requests, _) = &mut plan.clients[index].speech {
                    requests.pop();
                }
            });
        }
        for step in 0..client.steps.len().min(40) {
            with(&|plan| {
                plan.clients[index].steps.remove(step);
            });
            if client.steps[step].0 > 0 {
                with(&|plan| plan.clients[index].steps[step].0 = 0);
            }
        }
        for step in 0..client.server.steps.len().min(40) {
            with(&|plan| {
                plan.clients[index].server.steps.remove(step);
            });
        }
        if client.reader.stops.is_some() {
            with(&|plan| plan.clients[index].reader.stops = None);
        }
        if client.server.reader.stops.is_some() {
            with(&|plan| plan.clients[index].server.reader.stops = None);
        }
        if client.server.keeps.is_some() {
            with(&|plan| plan.clients[index].server.keeps = None);
        }
    }
    all
}
