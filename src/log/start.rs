//! Where a log starts, by what two small files say of it: neither of them has a checksum.
//!
//! The checkpoint of leader epochs is moved before the checkpoint of log starts, both before anything is unlinked. So a
//! start that was reached is told by both, and one that only the latter tells is wrong.

use crate::types::Offset;

/// The start that can be believed, of a log of ours; `None`: nothing is known to be deleted. `told`: by the
/// checkpoint of log starts; `bases`: where segments begin.
pub(super) fn confirmed(
    told: Option<Offset>,
    epochs: Option<&[(i32, Offset)]>,
    mut bases: impl Iterator<Item = Offset>,
) -> Option<Offset> {
    let told = told?;
    let first = epochs.and_then(|epochs| epochs.first()).map(|(_, start)| *start);
    let is_confirmed = first.is_some_and(|first| first >= told) || bases.any(|base| base == told);
    if is_confirmed { Some(told) } else { first }
}

/// How many of these segments, rising, lie wholly below a start.
pub(super) fn below(start: Offset, bases: impl Iterator<Item = Offset>) -> usize {
    bases.take_while(|base| *base <= start).count().saturating_sub(1)
}

/// Kafka's `LeaderEpochFileCache.truncateFromStart`: the epoch that the start lies in begins there.
pub(crate) fn epochs_from(epochs: &[(i32, Offset)], start: Offset) -> Vec<(i32, Offset)> {
    let gone = epochs.partition_point(|(_, begin)| *begin <= start);
    let (gone, rest) = epochs.split_at_checked(gone).unwrap_or_default();
    gone.last().map(|(epoch, _)| (*epoch, start)).into_iter().chain(rest.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_believed_when_the_epochs_or_a_segment_say_the_same() {
        let bases = || [0, 10, 20].into_iter();
        assert_eq!(confirmed(None, Some(&[(0, 7)]), bases()), None);
        assert_eq!(confirmed(Some(12), Some(&[(0, 12)]), bases()), Some(12));
        // The epochs are moved first.
        assert_eq!(confirmed(Some(12), Some(&[(0, 15)]), bases()), Some(12));
        assert_eq!(confirmed(Some(10), Some(&[(0, 0)]), bases()), Some(10));
        assert_eq!(confirmed(Some(10), None, bases()), Some(10));
        assert_eq!(confirmed(Some(92), Some(&[(0, 12)]), bases()), Some(12));
        assert_eq!(confirmed(Some(92), None, bases()), None);
    }

    #[test]
    fn a_segment_is_below_a_start_when_the_next_one_begins_at_or_below_it() {
        let count = |start| below(start, [5, 10, 20].into_iter());
        assert_eq!([0, 5, 9, 10, 19, 20, 99].map(count), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(below(7, std::iter::empty()), 0);
    }

    #[test]
    fn epochs_are_cut_in_front_as_kafka_does() {
        let epochs = [(2, 6), (4, 9), (7, 20)];
        assert_eq!(epochs_from(&epochs, 5), epochs);
        assert_eq!(epochs_from(&epochs, 6), epochs);
        assert_eq!(epochs_from(&epochs, 8), [(2, 8), (4, 9), (7, 20)]);
        assert_eq!(epochs_from(&epochs, 9), [(4, 9), (7, 20)]);
        assert_eq!(epochs_from(&epochs, 99), [(7, 99)]);
        assert_eq!(epochs_from(&[], 3), []);
    }
}
