//! The records of `__consumer_offsets`, in Kafka's schemas: pure functions between bytes and values.
//!
//! Invariants:
//! - Bytes from outside never panic, and never make more allocated than their own size.
//! - What is written has version 3 (keys 1 and 2); versions 0 to 4 are read. Bytes behind the last known field are
//!   left alone, as Kafka does.
//! - What is encoded here decodes to the same.
//!
//! Schemas: `OffsetCommitKey`, `OffsetCommitValue`, `GroupMetadataKey`, `GroupMetadataValue`,
//! `ConsumerProtocolSubscription`, `ConsumerProtocolAssignment`.

use std::fmt;

/// Why bytes are none of these records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// They end too early, or a length in them points beyond their end.
    Short,
    /// A text is not UTF-8.
    Text,
    /// A text is longer than Kafka's.
    Long,
    /// A field that must be there is null.
    Null,
    /// A version that is not known here.
    Version(i16),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Short => f.write_str("it ends too early"),
            Malformed::Text => f.write_str("a text in it is not UTF-8"),
            Malformed::Long => f.write_str("a text in it is longer than 32,767 bytes"),
            Malformed::Null => f.write_str("a field that must be there is null"),
            Malformed::Version(version) => write!(f, "its version {version} is not known"),
        }
    }
}

/// The longest text that a record holds.
pub(crate) const TEXT_BYTES_MAX: usize = i16::MAX as usize;

type Result<T> = std::result::Result<T, Malformed>;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A committed offset.
    Offset { group: String, topic: String, partition: i32 },
    /// A group's members.
    Group { group: String },
    /// Records of Kafka's newer group kinds, or of the future.
    Other(i16),
}

impl Key {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Key> {
        let mut reader = Reader { rest: bytes, flexible: false };
        Ok(match reader.i16()? {
            0 | 1 => {
                Key::Offset { group: reader.string()?, topic: reader.string()?, partition: reader.i32()? }
            }
            2 => Key::Group { group: reader.string()? },
            other => Key::Other(other),
        })
    }

    /// The key of a committed offset.
    pub(crate) fn offset(group: &str, topic: &str, partition: i32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.i16(1);
        writer.string(Some(group));
        writer.string(Some(topic));
        writer.i32(partition);
        writer.0
    }

    /// The key of a group's members.
    pub(crate) fn group(group: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.i16(2);
        writer.string(Some(group));
        writer.0
    }
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetValue {
    pub(crate) offset: i64,
    /// -1: not known.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
    pub(crate) commit_ms: i64,
    /// What a client of long ago asked for.
    pub(crate) expire_ms: Option<i64>,
}

impl OffsetValue {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.i16(3);
        writer.i64(self.offset);
        writer.i32(self.leader_epoch);
        writer.string(Some(&self.metadata));
        writer.i64(self.commit_ms);
        writer.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<OffsetValue> {
        let mut reader = Reader { rest: bytes, flexible: false };
        let version = reader.version(4)?;
        let offset = reader.i64()?;
        let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
        let metadata = reader.string()?;
        let commit_ms = reader.i64()?;
        let expire_ms = if version == 1 { Some(reader.i64()?).filter(|ms| *ms >= 0) } else { None };
        reader.tags()?;
        Ok(OffsetValue { offset, leader_epoch, metadata, commit_ms, expire_ms })
    }
}

/// A group's members, as of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupValue {
    pub(crate) protocol_type: String,
    pub(crate) generation: i32,
    /// The assignor; `None` when the group is empty.
    pub(crate) protocol: Option<String>,
    pub(crate) leader: Option<String>,
    /// Since when the group is in its state; -1: not known.
    pub(crate) state_ms: i64,
    pub(crate) members: Vec<MemberValue>,
}

/// A member of a [`GroupValue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberValue {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) subscription: Vec<u8>,
    pub(crate) assignment: Vec<u8>,
}

impl GroupValue {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.i16(3);
        writer.string(Some(&self.protocol_type));
        writer.i32(self.generation);
        writer.string(self.protocol.as_deref());
        writer.string(self.leader.as_deref());
        writer.i64(self.state_ms);
        writer.count(self.members.len());
        for member in &self.members {
            writer.string(Some(&member.member_id));
            writer.string(member.instance_id.as_deref());
            writer.string(Some(&member.client_id));
            writer.string(Some(&member.client_host));
            writer.i32(member.rebalance_timeout_ms);
            writer.i32(member.session_timeout_ms);
            writer.bytes(&member.subscription);
            writer.bytes(&member.assignment);
        }
        writer.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<GroupValue> {
        let mut reader = Reader { rest: bytes, flexible: false };
        let version = reader.version(4)?;
        let protocol_type = reader.string()?;
        let generation = reader.i32()?;
        let protocol = reader.nullable_string()?;
        let leader = reader.nullable_string()?;
        let state_ms = if version >= 2 { reader.i64()? } else { -1 };
        let mut members = Vec::new();
        for _ in 0..reader.count()? {
            let member_id = reader.string()?;
            let instance_id = if version >= 3 { reader.nullable_string()? } else { None };
            let (client_id, client_host) = (reader.string()?, reader.string()?);
            let before = if version >= 1 { Some(reader.i32()?) } else { None };
            let session_timeout_ms = reader.i32()?;
            let (subscription, assignment) = (reader.bytes()?, reader.bytes()?);
            reader.tags()?;
            members.push(MemberValue {
                member_id,
                instance_id,
                client_id,
                client_host,
                rebalance_timeout_ms: before.unwrap_or(session_timeout_ms),
                session_timeout_ms,
                subscription,
                assignment,
            });
        }
        reader.tags()?;
        Ok(GroupValue { protocol_type, generation, protocol, leader, state_ms, members })
    }
}

/// What a member wants: the blob in a [`MemberValue`].
pub(crate) fn subscription<'t>(topics: impl ExactSizeIterator<Item = &'t str>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.i16(3);
    writer.count(topics.len());
    topics.for_each(|topic| writer.string(Some(topic)));
    writer.i32(-1); // no user data
    writer.count(0); // nothing owned
    writer.i32(-1); // no generation
    writer.string(None); // no rack
    writer.0
}

/// What a member has: the blob in a [`MemberValue`]; partitions by topic.
pub(crate) fn assignment<'t>(topics: impl ExactSizeIterator<Item = (&'t str, Vec<i32>)>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.i16(3);
    writer.count(topics.len());
    for (topic, partitions) in topics {
        writer.string(Some(topic));
        writer.count(partitions.len());
        partitions.into_iter().for_each(|partition| writer.i32(partition));
    }
    writer.i32(-1); // no user data
    writer.0
}

/// Which partition of `__consumer_offsets` holds a group: Java's hash of its id.
pub(crate) fn partition_of(group: &str, partitions: u32) -> i32 {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    // Kafka's `Utils.abs`: the one number without a positive counterpart is 0.
    let hash = hash.checked_abs().unwrap_or(0);
    hash % i32::try_from(partitions.max(1)).unwrap_or(i32::MAX)
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn i16(&mut self, value: i16) {
        self.0.extend(value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    fn count(&mut self, count: usize) {
        self.i32(i32::try_from(count).unwrap_or(i32::MAX));
    }

    /// Texts that are longer than a length can say are refused before they come here.
    fn string(&mut self, text: Option<&str>) {
        let Some(text) = text else { return self.i16(-1) };
        debug_assert!(text.len() <= TEXT_BYTES_MAX);
        self.i16(text.len() as i16);
        self.0.extend(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }
}

/// Takes fields off the front. From version 4 on lengths are packed, and structures end with tagged fields.
struct Reader<'b> {
    rest: &'b [u8],
    flexible: bool,
}

impl<'b> Reader<'b> {
    /// The version, which must be at most `newest`.
    fn version(&mut self, newest: i16) -> Result<i16> {
        let version = self.i16()?;
        if !(0..=newest).contains(&version) {
            return Err(Malformed::Version(version));
        }
        self.flexible = version >= 4;
        Ok(version)
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed::Short)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn unsigned(&mut self) -> Result<u32> {
        let mut value = 0_u32;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Short)
    }

    /// A length, or `None` for null: packed, or of two or four bytes.
    fn len(&mut self, wide: bool) -> Result<Option<usize>> {
        if self.flexible {
            return Ok(self.unsigned()?.checked_sub(1).map(|len| len as usize));
        }
        let len = if wide { self.i32()? } else { self.i16()?.into() };
        match len {
            -1 => Ok(None),
            len => usize::try_from(len).map(Some).map_err(|_| Malformed::Short),
        }
    }

    fn nullable_string(&mut self) -> Result<Option<String>> {
        let Some(len) = self.len(false)? else { return Ok(None) };
        if len > TEXT_BYTES_MAX {
            return Err(Malformed::Long);
        }
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| Malformed::Text)?;
        Ok(Some(text.to_owned()))
    }

    fn string(&mut self) -> Result<String> {
        self.nullable_string()?.ok_or(Malformed::Null)
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let len = self.len(true)?.ok_or(Malformed::Null)?;
        Ok(self.take(len)?.to_vec())
    }

    /// How many follow; nothing is allocated for them, since each takes bytes.
    fn count(&mut self) -> Result<usize> {
        self.len(true)?.ok_or(Malformed::Null)
    }

    fn tags(&mut self) -> Result<()> {
        if self.flexible {
            for _ in 0..self.unsigned()? {
                self.unsigned()?;
                let len = self.unsigned()?;
                self.take(len as usize)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    const T: i64 = 0x018b_cfe5_6800;

    fn committed(offset: i64, leader_epoch: i32) -> OffsetValue {
        OffsetValue { offset, leader_epoch, metadata: String::new(), commit_ms: T, expire_ms: None }
    }

    #[test]
    fn n22_keys_and_values_are_kafkas_bytes() {
        assert_eq!(Key::offset("g1", "t", 0), hex("0001 0002 6731 0001 74 00000000"));
        assert_eq!(Key::group("g1"), hex("0002 0002 6731"));
        let value = hex("0003 000000000000002b ffffffff 0000 0000018bcfe56800");
        assert_eq!(committed(43, -1).encode(), value);
        let group = GroupValue {
            protocol_type: "consumer".into(),
            generation: 1,
            protocol: Some("range".into()),
            leader: Some("m1".into()),
            state_ms: T,
            members: vec![MemberValue {
                member_id: "m1".into(),
                instance_id: None,
                client_id: "c".into(),
                client_host: "/127.0.0.1".into(),
                rebalance_timeout_ms: 300_000,
                session_timeout_ms: 45_000,
                subscription: subscription(["t"].into_iter()),
                assignment: assignment([("t", vec![0, 1])].into_iter()),
            }],
        };
        let bytes = hex(
            "00030008636f6e73756d657200000001000572616e676500026d310000018bcfe568000000000100026d31ffff000163000a2f3132372e302e302e31000493e00000afc800000017000300000001000174ffffffff00000000ffffffffffff00000019000300000001000174000000020000000000000001ffffffff",
        );
        assert_eq!(group.encode(), bytes);
        assert_eq!(GroupValue::decode(&bytes), Ok(group));
    }

    #[test]
    fn n22_older_and_newer_values_are_read() {
        let plain = OffsetValue { leader_epoch: -1, metadata: "m".into(), ..committed(7, -1) };
        let v0 = hex("0000 0000000000000007 0001 6d 0000018bcfe56800");
        assert_eq!(OffsetValue::decode(&v0), Ok(plain.clone()));
        let v1 = hex("0001 0000000000000007 0001 6d 0000018bcfe56800 0000018bcfe56801");
        assert_eq!(OffsetValue::decode(&v1), Ok(OffsetValue { expire_ms: Some(T + 1), ..plain.clone() }));
        let v1 = hex("0001 0000000000000007 0001 6d 0000018bcfe56800 ffffffffffffffff");
        assert_eq!(OffsetValue::decode(&v1), Ok(plain.clone()), "-1 is no time");
        let v2 = hex("0002 0000000000000007 0001 6d 0000018bcfe56800");
        assert_eq!(OffsetValue::decode(&v2), Ok(plain));
        let v4 = hex("0004 000000000000002b ffffffff 01 0000018bcfe56800 00");
        assert_eq!(OffsetValue::decode(&v4), Ok(committed(43, -1)));
        let with_id = hex(
            "0004 0000000000000003 00000000 01 0000018bcfe56800 01 00 10 00112233445566778899aabbccddeeff",
        );
        assert_eq!(OffsetValue::decode(&with_id), Ok(committed(3, 0)));
        assert_eq!(OffsetValue::decode(&hex("0005 00")), Err(Malformed::Version(5)));
        assert_eq!(OffsetValue::decode(&hex("ffff 00")), Err(Malformed::Version(-1)));

        let empty = GroupValue {
            protocol_type: "consumer".into(),
            generation: 2,
            protocol: None,
            leader: None,
            state_ms: T,
            members: Vec::new(),
        };
        let text = "0008636f6e73756d6572 00000002 ffff ffff";
        let v0 = hex(&format!("0000 {text} 00000000"));
        assert_eq!(GroupValue::decode(&v0), Ok(GroupValue { state_ms: -1, ..empty.clone() }));
        let v2 = hex(&format!("0002 {text} 0000018bcfe56800 00000000"));
        assert_eq!(GroupValue::decode(&v2), Ok(empty.clone()));
        let v4 = hex("0004 09636f6e73756d6572 00000002 00 00 0000018bcfe56800 01 00");
        assert_eq!(GroupValue::decode(&v4), Ok(empty.clone()));
        let v4 = hex(
            "0004 09636f6e73756d6572 00000002 00 00 0000018bcfe56800 02 036d31 00 0263 0268 00000001 00000002 02aa 03bbcc 00 00",
        );
        let member = MemberValue {
            member_id: "m1".into(),
            instance_id: None,
            client_id: "c".into(),
            client_host: "h".into(),
            rebalance_timeout_ms: 1,
            session_timeout_ms: 2,
            subscription: vec![0xaa],
            assignment: vec![0xbb, 0xcc],
        };
        assert_eq!(GroupValue::decode(&v4), Ok(GroupValue { members: vec![member], ..empty }));
    }

    #[test]
    fn n23_keys_of_other_kinds_are_told_apart() {
        assert_eq!(Key::decode(&hex("0063 01")), Ok(Key::Other(99)));
        assert_eq!(Key::decode(&hex("0003 0001 67")), Ok(Key::Other(3)));
        assert_eq!(
            Key::decode(&hex("0000 0001 67 0001 74 00000005")),
            Ok(Key::Offset { group: "g".into(), topic: "t".into(), partition: 5 })
        );
        assert_eq!(Key::decode(&[]), Err(Malformed::Short));
        assert_eq!(Key::decode(&hex("0001 0002 67")), Err(Malformed::Short));
        assert_eq!(Key::decode(&hex("0001 ffff")), Err(Malformed::Null));
        assert_eq!(Key::decode(&hex("0002 0001 ff")), Err(Malformed::Text));
    }

    #[test]
    fn a_group_lies_where_kafka_looks_for_it() {
        for (group, partition) in [("g1", 42), ("my-group", 12), ("test", 48), ("console-consumer", 40)] {
            assert_eq!(partition_of(group, 50), partition, "{group}");
            assert_eq!(partition_of(group, 1), 0);
        }
        // Its hash is i32::MIN.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert!((0..50).contains(&partition_of("gruppe-ü-😀", 50)));
    }

    #[test]
    fn every_cut_of_a_record_is_an_error() {
        let group = GroupValue {
            protocol_type: "consumer".into(),
            generation: 1,
            protocol: Some("range".into()),
            leader: Some("m".into()),
            state_ms: T,
            members: Vec::new(),
        };
        let (offset, group) = (committed(1, 2).encode(), group.encode());
        (0..offset.len()).for_each(|len| assert!(OffsetValue::decode(&offset[..len]).is_err(), "{len}"));
        (0..group.len()).for_each(|len| assert!(GroupValue::decode(&group[..len]).is_err(), "{len}"));
        for key in [Key::offset("g", "t", 1), Key::group("g")] {
            (0..key.len()).for_each(|len| assert!(Key::decode(&key[..len]).is_err(), "{len}"));
        }
        // A count that nothing stands behind: no memory is asked for it.
        let wild = hex("0003 0001 67 00000001 ffff ffff 0000000000000000 7fffffff");
        assert_eq!(GroupValue::decode(&wild), Err(Malformed::Short));
    }
}
