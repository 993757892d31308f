//! A new attack on the crate's public API: MI-FGSM, the iterative fast gradient sign method with momentum (Dong et al.,
//! "Boosting adversarial attacks with momentum", CVPR 2018), in linf.
//!
//! An attack is two programs and the buffers of a workspace; it needs no kernel of its own, and runs on every device.
//!
//! ```text
//! cargo run --release --example new_attack
//! ```

mod digits;

use std::sync::Arc;

use maxmargin::Result;
use maxmargin::attack::Retention::{Carried, Scratch};
use maxmargin::attack::{Attack, Workspace};
use maxmargin::batch::Batch;
use maxmargin::config::Method;
use maxmargin::device::{Device, Schedule, cpu::Cpu};
use maxmargin::evaluate::{Examples, VerifiedAttack, accuracy, robust_examples};
use maxmargin::model::state_dict::load_model;
use maxmargin::model::{Mode, Model};
use maxmargin::tape::{Loss, LossRule, Memory, Norm, PgdRule, Reduction};

/// Records MI-FGSM on `batch`: `iterations` steps of eps / `iterations` along the sign of the momentum, which is
/// `decay` times the last one plus the gradient over its l1 norm.
fn mi_fgsm(memory: &mut Memory, model: &dyn Model, batch: &Batch, iterations: u32, decay: f32) -> Attack {
    let mut workspace = Workspace::new(memory, model, batch, "mi-fgsm");
    let run = workspace.counter("run");
    let eps = workspace.scalars(Carried, "eps");
    let step = workspace.scalars(Carried, "step");
    let adv = workspace.images(Carried, "adv");
    let momentum = workspace.images(Carried, "momentum");
    let ones = workspace.scalars(Scratch, "ones");

    let mut tape = batch.tape("mi_fgsm_start");
    let [x, radius] = [&batch.x, &eps].map(|buffer| tape.leaf(buffer));
    let first = tape.copy(x);
    tape.keep(first, &adv);
    for (value, buffer) in [(0.0, &momentum), (1.0, &ones)] {
        let filled = tape.fill(value, &buffer.dims);
        tape.keep(filled, buffer);
    }
    let length = tape.scale(radius, 1.0 / iterations as f32);
    tape.keep(length, &step);
    let start = tape.finish();

    let mut tape = batch.tape("mi_fgsm_iteration");
    let [x, labels, point, radius, length, weights] =
        [&batch.x, &batch.labels, &adv, &eps, &step, &ones].map(|buffer| tape.leaf(buffer));
    let logits = model.logits(&mut tape, point, Mode::Eval);
    let loss = tape.loss(LossRule { loss: Loss::Xent, confidence: 0.0 }, logits, labels);
    let gradient = tape.grad(loss, weights, &[point])[0];
    let l1 = tape.reduce(Reduction::Sum, [gradient], |[gradient]| gradient.abs());
    tape.map_into(&momentum, [gradient, l1], |old, [gradient, l1]| decay * old + gradient / l1.max(f32::MIN_POSITIVE));
    // PGD's step goes along the sign of whatever it is given, then back into the ball and the box.
    let direction = tape.leaf(&momentum);
    let rule = PgdRule { norm: Norm::Linf, ..digits::settings(Method::Std).pgd_rule() };
    tape.pgd_step(rule, &adv, x, direction, radius, length);
    let iteration = tape.finish();

    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(start), 1);
    schedule.then(&Arc::new(iteration), iterations);
    workspace.attack(run, Some(eps), adv, schedule)
}

pub fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = load_model(&digits::trained_weights(&folder.path().join("run"))?)?;
    let test = digits::images(&digits::settings(Method::Std))?.test;

    let mut memory = Memory::default();
    let mut model = weights.model;
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &*model, "test", test.len(), 100);
    let attacks = [(1, 0.0), (10, 1.0)].map(|(iterations, decay)| {
        let attack = mi_fgsm(&mut memory, &*model, &examples.batch, iterations, decay);
        VerifiedAttack::new(&mut memory, &*model, &examples, Norm::Linf, attack)
    });

    let device: &mut dyn Device = &mut Cpu::new();
    let programs: Vec<_> =
        examples.programs().into_iter().chain(attacks.iter().flat_map(VerifiedAttack::programs)).collect();
    device.allocate(&memory, &programs)?;
    model.load(device, &weights.state)?;
    examples.upload(device, &test)?;

    let clean = accuracy(&examples.correct(device)?);
    let mut robust =
        |attack| robust_examples(std::slice::from_ref(attack), device, &examples, 0.1, |_| ()).map(|s| accuracy(&s));
    let (fgsm, mi_fgsm) = (robust(&attacks[0])?, robust(&attacks[1])?);
    println!("clean accuracy {clean:.1} %; at eps 0.1, FGSM leaves {fgsm:.1} %, MI-FGSM {mi_fgsm:.1} %");
    assert!(clean > 80.0 && mi_fgsm < clean, "the attack finds adversarial examples");
    assert!(mi_fgsm <= fgsm, "ten steps with momentum find at least as many as one step");
    Ok(())
}
