//! The images and the little network that the examples use.

#![allow(dead_code)] // each example uses its own part

use std::path::{Path, PathBuf};

use maxmargin::Result;
use maxmargin::config::{Config, Method, preset};
use maxmargin::data::{self, Splits};
use maxmargin::device::cpu::Cpu;
use maxmargin::record::{RunFolder, run::BEST};
use maxmargin::train;

/// Settings of a run of seconds: an eighth of LeNet5's width on 1,000 of the bundled digits.
pub fn settings(method: Method) -> Config {
    Config {
        method,
        width: 0.125,
        train_size: Some(1000),
        val_size: 100,
        test_size: Some(200),
        max_num_training_steps: 100,
        learning_rate_schedule: vec![(0, 4e-3)],
        ..preset("quick").expect("the default preset").config
    }
}

/// The images that `config` names.
pub fn images(config: &Config) -> Result<Splits> {
    let splits = data::load(config.dataset, Path::new("data"), config.val_size)?;
    Ok(splits.cut(config.train_size, config.test_size))
}

/// Trains a network on clean images in a run folder `folder`; returns the file of its best weights.
pub fn trained_weights(folder: &Path) -> Result<PathBuf> {
    let config = settings(Method::Std);
    let run = RunFolder::create(folder)?;
    let summary = train::run(&config, &images(&config)?, &run, &mut Cpu::new(), false, true)?;
    println!("trained: {:.1} % of the clean test images are correct", summary.after.clean);
    Ok(folder.join(BEST))
}
