//! Copy small, share large: what a message costs its sender on loopback, copied into a chunk or as
//! two slices of a gathered write; and what an empty, a filled and a large receive buffer costs.
//!
//! `cargo bench --bench buffer`. `COPY_MAX` lies where the two ways of sending cross.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fieldgate::buffer::{Memory, Payload, RecvBuffer, SendQueue};

/// Messages of one write: what a busy turn has for one subscriber.
const BATCH: usize = 16;

/// Bytes before a payload: fixed header, topic, packet identifier.
const HEAD: [u8; 30] = [0x30; 30];

const SIZES: [usize; 6] = [64, 256, 1024, 2048, 4096, 16 * 1024];

fn main() {
    divan::main();
}

/// A connection over loopback to somebody who reads as fast as he can until we hang up.
fn peer() -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let stream = TcpStream::connect(address).expect("it listens");
    let (mut other, _) = listener.accept().expect("it has connected");
    thread::spawn(move || {
        let mut scratch = vec![0; 1 << 20];
        while other.read(&mut scratch).is_ok_and(|count| count > 0) {}
    });
    stream
}

fn drain(queue: &mut SendQueue, stream: &mut TcpStream) {
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = queue.gather(&mut slices, usize::MAX);
        let taken = stream.write_vectored(&slices[..count]).expect("he reads");
        queue.consume(taken);
    }
}

#[divan::bench(args = SIZES)]
fn send_copied(bencher: Bencher<'_, '_>, size: usize) {
    let mut stream = peer();
    let memory = Memory::new(usize::MAX);
    let mut queue = SendQueue::new(&memory);
    let payload = vec![1; size];
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for _ in 0..BATCH {
            queue.reserve(HEAD.len()).copy_from_slice(&HEAD);
            // In pieces that a chunk has room for, as a copy of any size would be.
            for piece in payload.chunks(8 * 1024) {
                queue.reserve(piece.len()).copy_from_slice(piece);
            }
        }
        drain(&mut queue, &mut stream);
    });
}

#[divan::bench(args = SIZES)]
fn send_gathered(bencher: Bencher<'_, '_>, size: usize) {
    let mut stream = peer();
    let payload = Payload::from(vec![1; size]);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let mut slices = [IoSlice::new(&[]); 2 * BATCH];
        for pair in slices.chunks_exact_mut(2) {
            pair[0] = IoSlice::new(&HEAD);
            pair[1] = IoSlice::new(black_box(&payload));
        }
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let taken = stream.write_vectored(left).expect("he reads");
            IoSlice::advance_slices(&mut left, taken);
        }
    });
}

/// A read that brings so much, and a parser that takes it.
#[divan::bench(args = [64, 4096, 16 * 1024])]
fn receive(bencher: Bencher<'_, '_>, size: usize) {
    let memory = Memory::new(usize::MAX);
    let mut buffer = RecvBuffer::new(&memory);
    bencher.bench_local(|| {
        buffer.spare()[..size].fill(1);
        buffer.commit(size);
        let len = black_box(buffer.bytes()).len();
        buffer.consume(len);
    });
}

/// A frame larger than a chunk, read where it will lie.
#[divan::bench(args = [64 * 1024, 1024 * 1024])]
fn receive_large(bencher: Bencher<'_, '_>, size: usize) {
    let memory = Memory::new(usize::MAX);
    let mut buffer = RecvBuffer::new(&memory);
    bencher.bench_local(|| {
        buffer.expect_frame(size).expect("there is no limit");
        while !buffer.has_large_frame() {
            let spare = buffer.spare();
            spare.fill(1);
            let count = spare.len();
            buffer.commit(count);
        }
        buffer.take_frame()
    });
}
