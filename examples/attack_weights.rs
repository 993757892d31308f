//! Attacks the network in a file of weights, and reports its robust accuracy: what `maxmargin evaluate` does.
//!
//! ```text
//! cargo run --release --example attack_weights                        # trains a small network first
//! cargo run --release --example attack_weights -- weights.safetensors # a LeNet5 with PyTorch's names and layouts
//! ```

mod digits;

use std::path::PathBuf;

use maxmargin::Result;
use maxmargin::attack::StepLength;
use maxmargin::config::Method;
use maxmargin::device::cpu::Cpu;
use maxmargin::evaluate::{AttackName, AttackSettings, EvaluationRequest, OutputPaths, Split};
use maxmargin::model::state_dict::WeightsOptions;
use maxmargin::tape::Loss;

pub fn main() -> Result<()> {
    // Under `cargo test` the arguments are those of the test program.
    attack(std::env::args().nth(1).map(PathBuf::from).filter(|path| path.is_file()))
}

fn attack(weights: Option<PathBuf>) -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = weights.map_or_else(|| digits::trained_weights(&folder.path().join("run")), Ok)?;
    let request = EvaluationRequest {
        weights,
        weights_options: WeightsOptions::default(),
        config: digits::settings(Method::Std),
        trained: None,
        split: Split::Test,
        size: Some(100),
        data: "data".into(),
        protocol: None,
        attacks: vec![AttackName::Pgd, AttackName::ApgdCe],
        settings: AttackSettings {
            nb_iter: Some(20),
            nb_restart: 2,
            step: StepLength::EpsOver(10.0),
            loss: Loss::Xent,
            nb_sample: 1,
            seed: 0,
        },
        eps: vec![0.05, 0.1],
        margins: false,
        batch_size: 100,
        quiet: true,
    };
    let report = request.run(&mut Cpu::new(), &OutputPaths::default())?;
    print!("{}", report.table());
    let [small, large] = &report.robust[..] else { panic!("two eps were asked for") };
    assert!(
        report.clean_accuracy >= small.accuracy && small.accuracy >= large.accuracy,
        "a larger ball holds the smaller"
    );
    assert!(report.warnings.is_empty(), "no check warns: {:?}", report.warnings);
    Ok(())
}
