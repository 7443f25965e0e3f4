use super::*;
use crate::record::control::{ControlType, coordinator_epoch};

const COMMIT: &str = "
    00 00 00 00 00 00 00 2c 00 00 00 42 00 00 00 00
    02 9d 3d 22 37 00 30 00 00 00 00 00 00 01 8b cf
    e5 68 0a 00 00 01 8b cf e5 68 0a 00 00 00 00 00
    00 03 e8 00 03 ff ff ff ff 00 00 00 01 20 00 00
    00 08 00 00 00 01 0c 00 00 00 00 00 07 00";

fn marker(kind: ControlType) -> Sealed {
    let mut builder = BatchBuilder::new(128);
    builder.set_fields(BatchFields { transactional: true, control: true, ..Default::default() });
    builder.producer(1000, 3, -1);
    builder.push_end_marker(T + 10, kind, 7).unwrap();
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(44, 0);
    sealed
}

#[test]
fn a15_a_marker_needs_a_transactional_control_batch() {
    for (transactional, control) in [(false, false), (true, false), (false, true)] {
        let mut builder = BatchBuilder::new(128);
        builder.set_fields(BatchFields { transactional, control, ..Default::default() });
        assert!(builder.push_end_marker(T, ControlType::Commit, 7).is_err());
        assert!(builder.is_empty());
    }
}

#[test]
fn a17_the_marker_example_byte_for_byte() {
    let sealed = marker(ControlType::Commit);
    assert_eq!(sealed.bytes(), hex(COMMIT));
    assert_eq!(sealed.header().crc, 0x9d3d_2237);
    assert_eq!(marker(ControlType::Abort).header().crc, 0x6903_f47f);
    let (header, records) = read(sealed.bytes()).unwrap();
    assert!(header.is_control() && header.is_transactional());
    assert_eq!((header.producer_id, header.producer_epoch, header.last_sequence()), (1000, 3, -1));
    assert_eq!(ControlType::parse(records[0].key.as_deref().unwrap()), Ok(ControlType::Commit));
    assert_eq!(coordinator_epoch(records[0].value.as_deref().unwrap()), Ok(7));
}

#[test]
fn a17_markers_are_read_leniently() {
    assert_eq!(ControlType::parse(&hex("0000 0000")), Ok(ControlType::Abort));
    assert_eq!(ControlType::parse(&hex("0009 0001 ffff")), Ok(ControlType::Commit));
    assert_eq!(ControlType::parse(&hex("0000 0002")), Ok(ControlType::Other(2)));
    assert_eq!(coordinator_epoch(&hex("0005 00000007 01")), Ok(7));
    for key in ["", "000000", "ffff0001"] {
        assert!(ControlType::parse(&hex(key)).is_err());
    }
    for value in ["", "0000000000", "8000 00000007"] {
        assert!(coordinator_epoch(&hex(value)).is_err());
    }
}
