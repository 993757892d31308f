//! Trains a small LeNet5 by MMA on the bundled digits, with a training loop of one's own: about two seconds.
//!
//! `maxmargin train` adds run folders, validation, checkpoints and resume to the same loop (`maxmargin::train::run`).
//!
//! ```text
//! cargo run --release --example train_digits
//! ```

mod digits;

use maxmargin::Result;
use maxmargin::batch::DeviceData;
use maxmargin::config::Method;
use maxmargin::data::Batches;
use maxmargin::device::{Device, cpu::Cpu};
use maxmargin::evaluate::{Examples, accuracy};
use maxmargin::tape::Memory;
use maxmargin::train;

pub fn main() -> Result<()> {
    let config = digits::settings(Method::Mma);
    let splits = digits::images(&config)?;

    // Everything is recorded before the device takes its memory: the model, the data, one training step, a clean pass.
    let mut memory = Memory::default();
    let mut model = maxmargin::model::build(&config.architecture());
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &*model, "train", splits.train.len());
    let step = train::record_step(&mut memory, &*model, &data, &config);
    let test = Examples::new(&mut memory, &*model, "test", splits.test.len(), 100);

    let device: &mut dyn Device = &mut Cpu::new();
    let programs: Vec<_> = step.schedule.programs().chain(test.programs()).collect();
    device.allocate(&memory, &programs)?;
    model.load(device, &model.initial(config.seed))?;
    data.upload(device, &splits.train)?;
    test.upload(device, &splits.test)?;

    let untrained = accuracy(&test.correct(device)?);
    let mut batches = Batches::new(config.seed, splits.train.len(), config.training_batch_size);
    for number in 0..config.max_num_training_steps {
        let index = batches.at(number);
        device.write_u32(&step.batch.index, index)?;
        device.write_u32(&step.batch.rows, &[index.len() as u32])?;
        device.replay(&step.schedule)?;
    }
    let trained = accuracy(&test.correct(device)?);
    let margins = device.read_f32(step.margins.as_ref().expect("MMA keeps a margin of each training example"))?;
    let mean = margins.iter().sum::<f32>() / margins.len() as f32;

    println!("{}", model.describe());
    println!(
        "clean accuracy: {untrained:.1} % untrained, {trained:.1} % after {} steps",
        config.max_num_training_steps
    );
    println!("mean margin of the training images: {mean:.4} (linf)");
    assert!(untrained < 30.0 && trained > 80.0, "training raises the accuracy");
    assert!(mean > 0.1 && mean < config.max_eps(), "margins lie within the search's bound");
    Ok(())
}
