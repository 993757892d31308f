//! Row compaction: when examples leave the batch between the pieces of a long attack, the others end at the same bits.

mod support;

use maxmargin::attack::{
    ApgdLoss, ApgdSettings, Attack, FabSettings, RestartedPgd, RowCompaction, SpsaSettings, SquareSettings, StepLength,
    apgd, fab, spsa, square,
};
use maxmargin::batch::Batch;
use maxmargin::config::L2Order;
use maxmargin::device::Device;
use maxmargin::model::Model;
use maxmargin::tape::{Loss, LossRule, Memory, Norm, PgdRule, Program};
use support::attacked::{AttackProblem, AttackRecorder, ConvolutionModel};
use support::{Random, TestDevice, fast_devices};

/// Iterations: rows are compacted after 50 and after 100.
const ITERATIONS: u32 = 130;
const IMAGE: [usize; 3] = [6, 5, 2];
const CLASSES: usize = 5;
const ENOUGH: &str = "enough classes";
/// Examples that stay in the batch after each of the first two pieces.
const KEPT: [&[usize]; 2] = [&[1, 2, 4, 6, 7], &[2, 6, 7]];
const EXAMPLES: usize = 8;

/// Every attack within balls, with the norm of its balls.
fn bounded_attacks() -> Vec<(Norm, AttackRecorder)> {
    let mut attacks: Vec<(Norm, AttackRecorder)> = Vec::new();
    for norm in [Norm::Linf, Norm::L2] {
        for targeted in [false, true] {
            let pgd = RestartedPgd {
                loss: LossRule { loss: Loss::Slm, confidence: 0.0 },
                rule: PgdRule { norm, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 },
                iterations: ITERATIONS,
                step: StepLength::EpsOver(400.0),
                seed: 3,
                starts: 0..2,
                targeted,
            };
            attacks.push((norm, Box::new(move |memory, model, batch| pgd.record(memory, model, batch))));
            let settings =
                FabSettings { iterations: ITERATIONS, runs: 2, ..FabSettings::published(norm, targeted, true, 3) };
            attacks.push((
                norm,
                Box::new(move |memory, model, batch| fab(memory, model, batch, &settings).expect(ENOUGH)),
            ));
        }
        for loss in [ApgdLoss::Xent, ApgdLoss::Dlr, ApgdLoss::TargetedDlr] {
            let settings = ApgdSettings { iterations: ITERATIONS, runs: 2, ..ApgdSettings::published(loss, norm, 3) };
            attacks.push((
                norm,
                Box::new(move |memory, model, batch| apgd(memory, model, batch, &settings).expect(ENOUGH)),
            ));
        }
        let settings = SquareSettings { queries: ITERATIONS, restarts: 2, seed: 3, ..SquareSettings::published(norm) };
        attacks.push((norm, Box::new(move |memory, model, batch| square(memory, model, batch, &settings))));
    }
    let settings = SpsaSettings { iterations: ITERATIONS, samples: 4, at_once: 2, ..SpsaSettings::default() };
    attacks.push((Norm::Linf, Box::new(move |memory, model, batch| spsa(memory, model, batch, &settings))));
    attacks
}

/// Examples whose balls all differ, and random weights. Every label is the class that the output layer's bias favours.
fn problem(norm: Norm) -> (AttackProblem, Vec<f32>) {
    let mut given = AttackProblem::random(21, IMAGE, CLASSES, EXAMPLES, [-0.1, 1.1]);
    given.labels.fill(0);
    let largest = if norm == Norm::Linf { 0.1 } else { 0.8 };
    given.eps = (1..=EXAMPLES).map(|i| largest * i as f32 / EXAMPLES as f32).collect();
    let mut random = Random(22);
    let weights = 3 * 9 * IMAGE[2] + CLASSES * 3 * IMAGE[0] * IMAGE[1];
    let mut values: Vec<f32> = (0..weights).map(|_| random.unit() as f32 - 0.5).collect();
    values.extend([4.0, 0.0, 0.0, 0.0, 0.0]);
    (given, values)
}

/// An attack on its device, with the row compaction of some of its buffers.
struct CompactedAttack {
    device: Box<dyn Device>,
    batch: Batch,
    attack: Attack,
    compaction: RowCompaction,
}

impl CompactedAttack {
    /// Records an attack; the row compaction leaves behind the carried buffer whose name ends with `.forgotten`.
    fn new(
        make: TestDevice,
        (given, values): &(AttackProblem, Vec<f32>),
        record: &AttackRecorder,
        forgotten: Option<&str>,
    ) -> CompactedAttack {
        let mut memory = Memory::default();
        let mut model = ConvolutionModel::new(IMAGE, CLASSES);
        model.declare(&mut memory);
        let batch = Batch::new(&mut memory, &model, "images", EXAMPLES);
        let attack = record(&mut memory, &model, &batch);
        let mut moved = attack.clone();
        moved.carried.retain(|buffer| forgotten.is_none_or(|part| !buffer.name.ends_with(&format!(".{part}"))));
        assert_eq!(moved.carried.len() + usize::from(forgotten.is_some()), attack.carried.len());
        let compaction = RowCompaction::new(&mut memory, &batch, &moved);
        let mut device = make.open();
        let programs: Vec<&Program> = attack.schedule.programs().chain([compaction.program()]).collect();
        device.allocate(&memory, &programs).expect("memory");
        model.params().load(&mut *device, values).unwrap();
        device.write_f32(attack.eps.as_ref().expect("a bounded attack"), &given.eps).unwrap();
        device.write_u32(&attack.run, &[1]).unwrap();
        CompactedAttack { device, batch, attack, compaction }
    }

    /// Writes the batch of these examples.
    fn load(&mut self, given: &AttackProblem, examples: &[usize]) {
        let CompactedAttack { device, batch, .. } = self;
        let images: Vec<f32> = examples.iter().flat_map(|&i| given.x[i].clone()).collect();
        let of = |values: &[u32]| examples.iter().map(|&i| values[i]).collect::<Vec<u32>>();
        device.write_f32(&batch.x, &images).unwrap();
        device.write_u32(&batch.labels, &of(&given.labels)).unwrap();
        device.write_u32(&batch.index, &of(&given.index)).unwrap();
        device.write_u32(&batch.rows, &[examples.len() as u32]).unwrap();
    }

    /// Results of the examples that stay to the end, where those of `kept` stay after each piece.
    fn run(mut self, given: &AttackProblem, kept: &[&[usize]]) -> Vec<Vec<u32>> {
        let mut examples: Vec<usize> = (0..EXAMPLES).collect();
        self.load(given, &examples);
        for (at, piece) in self.attack.pieces().iter().enumerate() {
            self.device.replay(piece).unwrap();
            let Some(&kept) = kept.get(at) else { continue };
            let rows: Vec<u32> = (0..examples.len() as u32).filter(|&r| kept.contains(&examples[r as usize])).collect();
            self.load(given, kept);
            self.compaction.run(&mut *self.device, &rows).unwrap();
            examples = kept.to_vec();
        }
        let pixels = IMAGE.iter().product();
        let results = self.device.read_f32(&self.attack.adv).unwrap();
        let result = |row: usize| results[row * pixels..][..pixels].iter().map(|v| v.to_bits()).collect();
        (0..examples.len()).map(result).collect()
    }
}

fn name(make: TestDevice, norm: Norm, record: &AttackRecorder) -> String {
    CompactedAttack::new(make, &problem(norm), record, None).attack.name
}

/// Results of the last examples without and with row compaction.
fn both(make: TestDevice, norm: Norm, record: &AttackRecorder, forgotten: Option<&str>) -> [Vec<Vec<u32>>; 2] {
    let problem = problem(norm);
    let whole = CompactedAttack::new(make, &problem, record, None).run(&problem.0, &[]);
    let compacted = CompactedAttack::new(make, &problem, record, forgotten).run(&problem.0, &KEPT);
    [KEPT[1].iter().map(|&example| whole[example].clone()).collect(), compacted]
}

#[test]
fn every_bounded_attack_gives_the_same_bits_with_and_without_row_compaction() {
    for make in fast_devices() {
        for (norm, record) in bounded_attacks() {
            let [whole, compacted] = both(make, norm, &record, None);
            assert!(whole == compacted, "{} {norm}: row compaction changed a result", name(make, norm, &record));
        }
    }
}

/// The test above sees a buffer that is left behind.
#[test]
fn a_carried_buffer_that_is_left_behind_changes_a_result() {
    for make in fast_devices() {
        for (norm, record) in bounded_attacks() {
            let [whole, compacted] = both(make, norm, &record, Some("eps"));
            assert!(whole != compacted, "{} {norm}: eps was left behind", name(make, norm, &record));
        }
    }
}
