//! What a consumer tells of partitions that come and go.

use super::Consumer;
use crate::error::Result;
use crate::types::TopicPartition;

/// Is told when a group gives partitions to a consumer, or takes them: see [`Consumer::on_rebalance`].
///
/// All calls come from within the consumer's own [`Consumer::poll`] (or `unsubscribe`, or `close`), with no lock held.
/// The consumer is handed in: committing, seeking and pausing work; what would wait for the call itself, as `poll` and
/// `unsubscribe`, answers [`ErrorKind::WouldWaitForItself`](crate::ErrorKind::WouldWaitForItself). An error comes out
/// of that `poll`, when the partitions have changed hands all the same.
///
/// Only what changes is named: a partition that stays is in none of these calls. A consumer that is dropped, and not
/// closed, tells nothing any more.
///
/// ```
/// use std::time::Duration;
/// use logstead::{Consumer, RebalanceListener, Result, Store, TopicConfig, TopicPartition};
///
/// /// Commits before somebody else goes on.
/// struct CommitFirst;
///
/// impl RebalanceListener for CommitFirst {
///     fn revoked(&mut self, consumer: &mut Consumer, _partitions: &[TopicPartition]) -> Result<()> {
///         consumer.commit()
///     }
/// }
///
/// let store = Store::in_memory()?;
/// store.create_topic("orders", TopicConfig::default())?;
/// let mut consumer = store.group("billing").consumer()?;
/// consumer.on_rebalance(CommitFirst);
/// consumer.subscribe(["orders"])?;
/// consumer.poll(Duration::ZERO)?;
/// consumer.close()?;
/// # Ok::<(), logstead::Error>(())
/// ```
pub trait RebalanceListener: Send {
    /// These go to others when this returns. They are still the consumer's own: what was read of them can be committed
    /// here, and whatever still works on their records must be finished here, or somebody else reads them again.
    ///
    /// # Errors
    /// Whatever it returns, `poll` returns.
    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }

    /// These are the consumer's own from now on. They begin at what the group committed; a seek made here wins.
    ///
    /// # Errors
    /// Whatever it returns, `poll` returns.
    fn assigned(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }

    /// These are not the consumer's own any more, since it was removed from the group: others may have read them for
    /// some time, and a commit is refused. Unless it is written, [`RebalanceListener::revoked`] is called, as in Kafka.
    ///
    /// # Errors
    /// `poll` answers why they are lost; this error is not told.
    fn lost(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.revoked(consumer, partitions)
    }
}
