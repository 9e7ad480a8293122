//! The threads that compress and verify frames, and the memory that frames are gathered in.

use std::sync::Mutex;

use crossbeam_channel::Receiver;

use crate::error::Error;
use crate::pack::{Compression, Compressor, FrameBuilder};
use crate::repository::writer::{DATA_FRAME_LEN, Job, Shared};

/// Buffers kept for the next frames.
const SPARE_BUFFERS: usize = 8;

/// The memory of frames that are done: to get it from the system anew costs a page fault for every 4 KiB.
#[derive(Default)]
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// A frame to be gathered.
    pub(super) fn builder(&self) -> FrameBuilder {
        let spare = self.0.lock().ok().and_then(|mut spare| spare.pop());
        FrameBuilder::with_buffer(spare.unwrap_or_default())
    }

    /// Keeps the memory of a frame that is done, unless it is too small for the next one.
    pub(super) fn take_back(&self, buffer: Vec<u8>) {
        if let Ok(mut spare) = self.0.lock()
            && buffer.capacity() >= DATA_FRAME_LEN
            && spare.len() < SPARE_BUFFERS
        {
            spare.push(buffer);
        }
    }
}

/// A compressing thread.
pub(super) fn run(shared: &Shared, compression: Compression, jobs: &Receiver<Job>) {
    let failed = |error| Error::Frame { source: error };
    let mut compressor = match Compressor::new(compression, shared.keys.ids().clone()) {
        Ok(compressor) => compressor,
        Err(error) => return shared.fail(failed(error)),
    };
    for (mut builder, waiting) in jobs {
        match compressor.compress(&mut builder) {
            Ok(frame) => {
                shared.spare.take_back(builder.into_buffer());
                if waiting.send(frame).is_err() {
                    return;
                }
            }
            Err(error) => return shared.fail(failed(error)),
        }
    }
}
