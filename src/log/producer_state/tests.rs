//! Kafka's cases H, and the pure ones of I, by number.

use super::*;

const ID: i64 = 1;

/// A batch of an ordinary producer.
fn data(epoch: i16, sequence: i32, offset: Offset, count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: offset,
        batch_length: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 0,
        max_timestamp: offset,
        producer_id: ID,
        producer_epoch: epoch,
        base_sequence: sequence,
        count,
    }
}

fn of(producer_id: i64, header: BatchHeader) -> BatchHeader {
    BatchHeader { producer_id, ..header }
}

fn transactional(header: BatchHeader) -> BatchHeader {
    BatchHeader { attributes: 0x10, ..header }
}

fn control(epoch: i16, offset: Offset) -> BatchHeader {
    BatchHeader { attributes: 0x30, ..data(epoch, -1, offset, 1) }
}

fn marker(is_abort: bool, coordinator_epoch: i32) -> EndMarker {
    EndMarker { is_abort, coordinator_epoch, timestamp: 5 }
}

/// Appends what a client sends.
fn send(state: &mut ProducerState, header: BatchHeader) -> Result<Checked, Refused> {
    let checked = state.check(&header, None)?;
    if checked == Checked::Append {
        state.apply(&header, None, Offset::MAX);
    }
    Ok(checked)
}

fn end(state: &mut ProducerState, epoch: i16, offset: Offset, marker: EndMarker) -> Result<(), Refused> {
    let header = control(epoch, offset);
    state.check(&header, Some(&marker))?;
    state.apply(&header, Some(&marker), Offset::MAX);
    Ok(())
}

fn out_of_order(result: Result<Checked, Refused>) -> bool {
    matches!(result, Err(Refused::OutOfOrder { .. }))
}

fn fenced(result: Result<Checked, Refused>) -> bool {
    matches!(result, Err(Refused::Fenced { .. }))
}

fn duplicate_at(result: Result<Checked, Refused>, first: Offset, last: Offset) -> bool {
    matches!(result, Ok(Checked::Duplicate(batch)) if (batch.first_offset(), batch.last_offset) == (first, last))
}

#[test]
fn h01_sequences_and_epochs_are_checked() {
    let mut state = ProducerState::default();
    assert_eq!(send(&mut state, data(0, 0, 0, 1)), Ok(Checked::Append));
    assert_eq!(send(&mut state, data(0, 1, 1, 1)), Ok(Checked::Append));
    // At the level of the log a repeated batch is a duplicate; one that overlaps is out of order.
    assert!(duplicate_at(send(&mut state, data(0, 1, 2, 1)), 1, 1));
    assert!(out_of_order(send(&mut state, data(0, 1, 2, 2))));
    assert!(out_of_order(send(&mut state, data(0, 5, 2, 1))));
    assert_eq!(send(&mut state, data(1, 0, 2, 1)), Ok(Checked::Append));
    assert!(fenced(send(&mut state, data(0, 2, 3, 1))));
}

#[test]
fn h02_h03_h04_five_batches_are_known_again() {
    let mut state = ProducerState::default();
    for i in 0..6 {
        assert_eq!(send(&mut state, data(0, i, i.into(), 1)), Ok(Checked::Append));
    }
    assert_eq!(send(&mut state, data(0, 6, 6, 3)), Ok(Checked::Append));
    assert!(duplicate_at(send(&mut state, data(0, 6, 9, 3)), 6, 8));
    assert!(out_of_order(send(&mut state, data(0, 7, 9, 2))));
    assert!(duplicate_at(send(&mut state, data(0, 2, 9, 1)), 2, 2));
    assert!(out_of_order(send(&mut state, data(0, 1, 9, 1))));
    assert_eq!(state.end(), 9);
}

#[test]
fn h05_after_the_largest_sequence_comes_0() {
    let mut state = ProducerState::default();
    assert_eq!(send(&mut state, data(0, i32::MAX, 0, 1)), Ok(Checked::Append));
    assert!(out_of_order(send(&mut state, data(0, 1, 1, 1))));
    assert_eq!(send(&mut state, data(0, 0, 1, 1)), Ok(Checked::Append));
    // Across the wrap within a batch, too.
    let mut state = ProducerState::default();
    assert_eq!(send(&mut state, data(0, i32::MAX - 1, 0, 4)), Ok(Checked::Append));
    assert!(duplicate_at(send(&mut state, data(0, i32::MAX - 1, 4, 4)), 0, 3));
    assert_eq!(state.next_sequence(ID, 0), 2);
    assert_eq!(send(&mut state, data(0, 2, 4, 1)), Ok(Checked::Append));
}

#[test]
fn h06_of_a_producer_that_is_not_known_any_sequence_is_taken() {
    assert_eq!(send(&mut ProducerState::default(), data(0, 17, 0, 1)), Ok(Checked::Append));
}

#[test]
fn h07_where_only_a_marker_is_known_its_epoch_counts_and_sequences_begin_at_0() {
    let mut state = ProducerState::default();
    end(&mut state, 2, 0, marker(false, 0)).unwrap();
    assert!(fenced(send(&mut state, data(0, 0, 1, 1))));
    assert!(out_of_order(send(&mut state, data(2, 17, 1, 1))));
    assert_eq!(send(&mut state, data(2, 0, 1, 1)), Ok(Checked::Append));
}

#[test]
fn h08_a_marker_of_a_later_epoch_ends_the_one_before() {
    let mut state = ProducerState::default();
    send(&mut state, transactional(data(0, 0, 0, 3))).unwrap();
    end(&mut state, 1, 3, marker(true, 0)).unwrap();
    let entry = state.get(ID).unwrap();
    assert_eq!((entry.epoch, entry.last(), entry.txn_first), (1, None, None));
    assert!(fenced(send(&mut state, data(0, 3, 4, 1))));
    assert!(out_of_order(send(&mut state, data(1, 3, 4, 1))));
    assert_eq!(send(&mut state, data(1, 0, 4, 1)), Ok(Checked::Append));
}

#[test]
fn h09_a_plain_batch_in_an_open_transaction_is_refused() {
    let mut state = ProducerState::default();
    send(&mut state, transactional(data(0, 0, 0, 1))).unwrap();
    assert_eq!(send(&mut state, data(0, 1, 1, 1)), Err(Refused::PlainInTransaction { producer_id: ID }));
}

#[test]
fn h10_a_marker_of_an_older_coordinator_is_refused_also_after_a_restart() {
    let mut state = ProducerState::default();
    send(&mut state, transactional(data(0, 0, 0, 1))).unwrap();
    end(&mut state, 0, 1, marker(true, 5)).unwrap();
    send(&mut state, transactional(data(0, 1, 2, 1))).unwrap();
    let bytes = super::super::snapshot::encode(&state);
    let mut again = super::super::snapshot::decode(&bytes, state.end()).unwrap();
    for state in [&mut state, &mut again] {
        let refused = end(state, 0, 3, marker(true, 4));
        assert_eq!(refused, Err(Refused::CoordinatorFenced { producer_id: ID, epoch: 4, current: 5 }));
        assert_eq!(end(state, 0, 3, marker(true, 5)), Ok(()));
    }
}

#[test]
fn h11_what_stands_in_the_log_is_taken_in_with_a_gap() {
    let mut state = ProducerState::default();
    state.apply(&data(3, 0, 0, 1), None, Offset::MAX);
    state.apply(&data(3, 17, 1, 1), None, Offset::MAX);
    assert_eq!(state.get(ID).unwrap().last().unwrap().last_sequence, 17);
    assert_eq!(send(&mut state, data(3, 18, 2, 1)), Ok(Checked::Append));
}

#[test]
fn h15_h16_who_wrote_nothing_for_long_is_forgotten_unless_a_transaction_is_open() {
    let mut state = ProducerState::default();
    send(&mut state, data(0, 0, 0, 1)).unwrap();
    send(&mut state, data(0, 1, 1, 1)).unwrap();
    send(&mut state, of(2, transactional(data(0, 0, 2, 1)))).unwrap();
    send(&mut state, of(3, data(0, 0, 3, 1))).unwrap();
    // Their records are 1, 2 and 3 milliseconds old.
    state.expire(100, 100, |_| false);
    assert_eq!(state.entries().len(), 3);
    state.expire(101, 100, |_| false);
    assert_eq!((state.get(ID), state.entries().len()), (None, 2));
    state.expire(1_000, 100, |id| id == 3);
    assert_eq!((state.get(2).is_some(), state.get(3).is_some()), (true, true));
    assert_eq!(send(&mut state, data(0, 2, 4, 1)), Ok(Checked::Append));
}

#[test]
fn i01_the_first_unstable_offset_follows_the_open_transactions() {
    let mut state = ProducerState::default();
    let mut unstable = |header: BatchHeader, marker: Option<EndMarker>| {
        state.apply(&header, marker.as_ref(), Offset::MAX);
        state.first_unstable(Offset::MAX)
    };
    assert_eq!(unstable(of(1, transactional(data(0, 0, 0, 3))), None), Some(0));
    assert_eq!(unstable(of(-1, data(-1, -1, 3, 3)), None), Some(0));
    assert_eq!(unstable(of(2, transactional(data(0, 0, 6, 3))), None), Some(0));
    assert_eq!(unstable(of(1, control(0, 9)), Some(marker(true, 0))), Some(6));
    assert_eq!(unstable(of(2, control(0, 10)), Some(marker(false, 0))), None);
}

#[test]
fn a_transaction_is_unstable_until_its_marker_is_committed() {
    let mut state = ProducerState::default();
    state.apply(&transactional(data(0, 0, 0, 3)), None, 0);
    state.apply(&control(0, 3), Some(&marker(false, 0)), 0);
    assert_eq!(state.first_unstable(3), Some(0));
    assert_eq!(state.first_unstable(4), None);
}

#[test]
fn i05_a_marker_without_a_transaction_changes_no_offset_and_its_coordinator_counts() {
    let mut state = ProducerState::default();
    let header = control(0, 0);
    assert_eq!(state.apply(&header, Some(&marker(true, 3)), Offset::MAX), None);
    assert_eq!(state.first_unstable(Offset::MAX), None);
    assert!(end(&mut state, 0, 1, marker(true, 2)).is_err());
}

#[test]
fn what_may_go_out_with_one_write_goes_on_in_the_same_epoch_and_manner() {
    let first = data(0, 5, 0, 3);
    assert!(goes_on(&first, &data(0, 8, 3, 1)));
    assert!(!goes_on(&first, &data(0, 7, 3, 1)) && !goes_on(&first, &data(0, 9, 3, 1)));
    assert!(!goes_on(&first, &data(1, 8, 3, 1)));
    assert!(!goes_on(&first, &transactional(data(0, 8, 3, 1))));
    assert!(goes_on(&data(0, i32::MAX, 0, 1), &data(0, 0, 1, 1)));
    assert!(!goes_on(&control(0, 0), &control(0, 1)));
}
