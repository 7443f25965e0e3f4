//! What a handler answers when it can not do its work.

use std::any::{Any, type_name};
use std::error::Error;
use std::fmt;

/// Why a handler could not do a record.
///
/// Any error becomes one by `?`, and so does text by `.into()`; such a failure may pass, so the record is tried again.
/// [`HandlerError::permanent`] makes one that is no use to try again, as for a record that makes no sense.
///
/// It is not an [`Error`] itself, so that every error can become one.
///
/// ```
/// use logstead::HandlerError;
///
/// fn handle(value: &[u8]) -> Result<u32, HandlerError> {
///     let text = std::str::from_utf8(value).map_err(HandlerError::permanent)?;
///     Ok(text.parse()?)
/// }
/// assert!(handle(b"\xff").unwrap_err().is_permanent());
/// assert!(!handle(b"twelve").unwrap_err().is_permanent());
/// ```
pub struct HandlerError {
    error: Box<dyn Error + Send + Sync>,
    kind: &'static str,
    permanent: bool,
}

impl HandlerError {
    /// A failure that comes again with every attempt: the record is given up at once, and the circuit breaker does not
    /// count it.
    pub fn permanent<E: Into<Box<dyn Error + Send + Sync>>>(error: E) -> Self {
        HandlerError { permanent: true, ..HandlerError::from(error) }
    }

    /// Whether it is no use to try again.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    pub(super) fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let error = text.unwrap_or("a panic without a message").into();
        HandlerError { error, kind: PANIC, permanent: false }
    }

    pub(super) fn is_panic(&self) -> bool {
        self.kind == PANIC
    }

    /// The type that it was made from.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The errors behind it, the nearest first.
    pub(super) fn causes(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        std::iter::successors(self.error.source(), |&error| error.source())
    }
}

const PANIC: &str = "panic";

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        HandlerError { error: error.into(), kind: type_name::<E>(), permanent: false }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("error", &self.error)
            .field("kind", &self.kind)
            .field("permanent", &self.permanent)
            .finish()
    }
}
