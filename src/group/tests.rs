use std::collections::HashMap;

use super::coordinator::Joining;
use super::slots::Place;
use super::target::Plan;
use super::*;
use crate::config::AssignmentStrategy;
use crate::sync::Ordering;

const POLL: Duration = Duration::from_millis(100);
const SESSION: Duration = Duration::from_millis(40);

/// What comes in between, and at how many looks at the time from now.
type Interruption = Option<(usize, Box<dyn FnOnce() + Send>)>;

/// A clock that does something, once, when it is asked for the time of day.
#[derive(Clone, Default)]
pub(super) struct Interrupted(Arc<Mutex<Interruption>>);

impl Interrupted {
    pub(super) fn interrupt(&self, at: usize, what: impl FnOnce() + Send + 'static) {
        *self.0.lock() = Some((at, Box::new(what)));
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.lock().is_none()
    }
}

impl crate::Clock for Interrupted {
    fn now_ms(&self) -> i64 {
        let mut interruption = self.0.lock();
        if let Some((at, _)) = &mut *interruption {
            *at -= 1;
        }
        let due = interruption.take_if(|(at, _)| *at == 0);
        drop(interruption);
        if let Some((_, what)) = due {
            what();
        }
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupted")
    }
}

/// A coordinator, its topics and the time.
struct Bench {
    group: Coordinator,
    topics: HashMap<&'static str, (usize, u32)>,
    now: Duration,
    signals: HashMap<MemberNo, Arc<Signal>>,
}

/// What a member was told in one poll.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    back: Vec<(&'static str, i32)>,
    taken: Vec<(&'static str, i32)>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            group: Coordinator::new(0),
            topics: HashMap::from([("t", (0, 4))]),
            now: Duration::from_secs(1),
            signals: HashMap::new(),
        }
    }

    fn joining(&self, topics: &[&'static str], instance: Option<&str>) -> Joining {
        Joining {
            instance_id: instance.map(Arc::from),
            client_id: "c".into(),
            wanted: topics.iter().map(|topic| Arc::from(*topic)).collect(),
            assignors: Arc::new([Named::new(Arc::new(AssignmentStrategy::CooperativeSticky))]),
            max_poll_interval: POLL,
            session_timeout: SESSION,
            signal: Arc::default(),
        }
    }

    fn join_as(&mut self, joining: Joining) -> Option<MemberNo> {
        let signal = Arc::clone(&joining.signal);
        let mut wakes = Wakes::default();
        let topics = self.topics.clone();
        let no = self.group.join(joining, self.now, &|name| topics.get(name).copied(), &mut wakes)?;
        self.signals.insert(no, signal);
        Some(no)
    }

    fn join(&mut self, topics: &[&'static str]) -> MemberNo {
        self.join_as(self.joining(topics, None)).unwrap()
    }

    fn join_static(&mut self, instance: &str) -> MemberNo {
        self.join_as(self.joining(&["t"], Some(instance))).unwrap()
    }

    fn beat(&mut self, no: MemberNo) -> Result<Step, Gone> {
        self.beat_as(no, None)
    }

    fn beat_as(&mut self, no: MemberNo, instance: Option<&str>) -> Result<Step, Gone> {
        let mut wakes = Wakes::default();
        self.group.expire(self.now, 0, &mut wakes);
        let topics = self.topics.clone();
        self.group.beat(no, instance, self.now, None, &|name| topics.get(name).copied())
    }

    fn plan(&mut self) -> Option<Plan> {
        self.group.plan(self.now, &mut Wakes::default())
    }

    fn install(&mut self, plan: &Plan, answer: &[Vec<PartitionIndex>]) -> Installed {
        let mut wakes = Wakes::default();
        let installed = self.group.install(plan, answer, self.now, &mut wakes);
        self.group.set_planning(false, self.now, &mut wakes);
        installed
    }

    fn names(&self, places: &[Place]) -> Vec<(&'static str, i32)> {
        let name = |place: &Place| {
            let (name, _, partition) = self.group.slots.name_of(*place).unwrap();
            let known = ["t", "u"].into_iter().find(|known| **known == *name);
            (known.unwrap(), partition)
        };
        places.iter().map(name).collect()
    }

    /// A whole poll of a member who does at once what it is told.
    fn poll(&mut self, no: MemberNo) -> Result<Told, Gone> {
        self.poll_as(no, None)
    }

    fn poll_as(&mut self, no: MemberNo, instance: Option<&str>) -> Result<Told, Gone> {
        let mut told = Told::default();
        loop {
            match self.beat_as(no, instance)? {
                Step::Nothing => break,
                Step::Plan => {
                    let plan = self.plan().unwrap();
                    let answer = plan.assignor.assign(&plan.spec);
                    assert_eq!(self.install(&plan, &answer), Installed::Followed);
                }
                Step::GiveBack(places) => {
                    told.back.extend(self.names(&places));
                    self.group.gave_back(no, &places, self.now, &mut Wakes::default());
                }
                Step::Take(places) => told.taken.extend(self.names(&places)),
            }
        }
        self.group.end_poll(no, self.now, false);
        Ok(told)
    }

    fn owned(&self, no: MemberNo) -> Vec<(&'static str, i32)> {
        let owned: Vec<Place> = self.group.members[&no].owned.iter().copied().collect();
        self.names(&owned)
    }

    fn leave(&mut self, no: MemberNo) {
        self.group.leave(no, self.now, 7, &mut Wakes::default());
    }

    fn has_news(&self, no: MemberNo) -> bool {
        self.signals[&no].news.load(Ordering::SeqCst)
    }
}

const ALL: [(&str, i32); 4] = [("t", 0), ("t", 1), ("t", 2), ("t", 3)];

#[test]
fn a_partition_changes_hands_by_being_free_in_between() {
    let mut bench = Bench::new();
    let a = bench.join(&["t"]);
    assert_eq!(bench.poll(a).unwrap().taken, ALL);
    let b = bench.join(&["t"]);
    assert_eq!(bench.poll(b).unwrap(), Told::default(), "the other has everything still");
    assert!(bench.has_news(a), "it is woken");
    let told = bench.poll(a).unwrap();
    assert_eq!((told.back.len(), told.taken.len()), (2, 0));
    assert!(bench.has_news(b), "what it waits for is free");
    assert_eq!(bench.poll(b).unwrap().taken, told.back);
    assert_eq!(bench.owned(a).len(), 2, "what stays is never given back");
    assert_eq!(bench.poll(a).unwrap(), Told::default());
}

#[test]
fn n3_every_change_of_members_raises_the_epoch_the_last_one_too() {
    let mut bench = Bench::new();
    let a = bench.join(&["t"]);
    let first = bench.group.epoch;
    let b = bench.join(&["t"]);
    let second = bench.group.epoch;
    bench.poll(a).unwrap();
    assert_eq!(bench.group.epoch, second, "an assignment is no change");
    bench.leave(a);
    let third = bench.group.epoch;
    bench.leave(b);
    let fourth = bench.group.epoch;
    assert!(0 < first && first < second && second < third && third < fourth);
    assert!(bench.group.is_empty());
    assert_eq!(bench.group.value(9).state_ms, 7, "empty since the last one left");
}

#[test]
fn n4_who_is_unknown_or_was_removed_is_told_so() {
    let mut bench = Bench::new();
    assert_eq!(bench.beat(99), Err(Gone::Removed));
    let a = bench.join(&["t"]);
    bench.poll(a).unwrap();
    bench.leave(a);
    assert_eq!(bench.beat(a), Err(Gone::Removed));
    assert_eq!(bench.group.check_owner(a, None, [("t", 0)].into_iter()), Err(Gone::Removed));
}

#[test]
fn n8_n13_who_does_not_poll_is_removed_and_the_others_go_on_without_it() {
    let mut bench = Bench::new();
    let (a, b) = (bench.join(&["t"]), bench.join(&["t"]));
    for no in [a, b, a] {
        bench.poll(no).unwrap();
    }
    bench.now += POLL - Duration::from_millis(1);
    bench.poll(b).unwrap();
    assert_eq!(bench.owned(a).len(), 2, "not yet");
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.poll(b).unwrap().taken.len(), 2);
    assert_eq!(bench.owned(b), ALL);
    assert_eq!(bench.poll(a), Err(Gone::Removed));
}

#[test]
fn who_sits_in_a_poll_is_alive_until_its_listener_runs() {
    let mut bench = Bench::new();
    let a = bench.join(&["t"]);
    let b = bench.join(&["t"]);
    bench.poll(b).unwrap();
    assert!(matches!(bench.beat(a), Ok(Step::Take(_))));
    assert_eq!(bench.beat(a), Ok(Step::Nothing));
    bench.now += 10 * POLL;
    bench.leave(b);
    bench.poll(a).unwrap();
    assert_eq!(bench.owned(a), ALL, "it sat in its poll for long");

    let c = bench.join(&["t"]);
    bench.poll(c).unwrap();
    assert!(matches!(bench.beat(a), Ok(Step::GiveBack(_))));
    for _ in 0..2 {
        bench.now += POLL / 2;
        bench.poll(c).unwrap();
    }
    assert_eq!(bench.owned(c), ALL, "a listener that hangs does not hold the others up");
    assert_eq!(bench.beat(a), Err(Gone::Removed));
}

#[test]
fn a_task_that_sleeps_is_alive_until_the_group_wants_something() {
    let mut bench = Bench::new();
    let a = bench.join(&["t"]);
    while bench.beat(a) != Ok(Step::Nothing) {
        if let Some(plan) = bench.plan() {
            let answer = plan.assignor.assign(&plan.spec);
            bench.install(&plan, &answer);
        }
    }
    bench.group.end_poll(a, bench.now, true);
    bench.now += 10 * POLL;
    let b = bench.join(&["t"]);
    bench.poll(b).unwrap();
    assert!(bench.has_news(a));
    assert_eq!(bench.owned(a), ALL, "it slept and was woken just now");
    bench.now += POLL / 2;
    bench.poll(b).unwrap();
    bench.now += POLL / 2;
    assert_eq!(bench.poll(b).unwrap().taken, ALL, "it was woken and never polled");
}

#[test]
fn n9_n11_a_static_member_keeps_its_partitions_while_its_consumer_is_away() {
    let mut bench = Bench::new();
    let (a, b) = (bench.join_static("i"), bench.join(&["t"]));
    for no in [a, b, a] {
        bench.poll_as(no, Some("i").filter(|_| no == a)).unwrap();
    }
    let (owned, others, epoch) = (bench.owned(a), bench.owned(b), bench.group.epoch);
    bench.leave(a);
    bench.now += SESSION - Duration::from_millis(1);
    assert_eq!(bench.poll(b).unwrap(), Told::default());

    let again = bench.join_static("i");
    assert_eq!(bench.group.epoch, epoch, "nothing moves");
    assert_eq!(bench.poll_as(again, Some("i")).unwrap().taken, owned);
    assert_eq!(bench.owned(b), others);
    assert_eq!(bench.beat_as(a, Some("i")), Err(Gone::Fenced), "the old one is not the member any more");
    assert_eq!(bench.group.check_owner(a, Some("i"), [("t", 0)].into_iter()), Err(Gone::Fenced));

    bench.leave(again);
    bench.now += SESSION;
    assert_eq!(bench.poll(b).unwrap().taken.len(), 2, "nobody came back");
    assert_eq!(bench.owned(b), ALL);
}

#[test]
fn a_static_member_is_taken_over_from_a_live_consumer_and_that_one_is_fenced() {
    let mut bench = Bench::new();
    let a = bench.join_static("i");
    bench.poll_as(a, Some("i")).unwrap();
    let b = bench.join_static("i");
    assert!(bench.has_news(a), "it may sleep in a poll");
    assert_eq!(bench.beat_as(a, Some("i")), Err(Gone::Fenced));
    bench.group.leave(a, bench.now, 0, &mut Wakes::default());
    assert_eq!(bench.poll_as(b, Some("i")).unwrap().taken, ALL);
    bench.leave(b);
    let changed = bench.join_as(Joining { wanted: Arc::default(), ..bench.joining(&[], Some("i")) }).unwrap();
    assert_eq!(bench.poll_as(changed, Some("i")).unwrap(), Told::default(), "it wants other topics");
    let c = bench.join(&["t"]);
    assert_eq!(bench.poll(c).unwrap().taken, ALL, "what it does not want is free at once");
}

#[test]
fn a_static_member_that_stalls_has_both_times() {
    let mut bench = Bench::new();
    let (a, b) = (bench.join_static("i"), bench.join(&["t"]));
    for no in [a, b, a] {
        bench.poll_as(no, Some("i").filter(|_| no == a)).unwrap();
    }
    bench.now += POLL;
    bench.group.end_poll(b, bench.now, false);
    assert_eq!(bench.poll(b).unwrap(), Told::default(), "its consumer counts as gone from now on");
    bench.now += SESSION - Duration::from_millis(1);
    assert_eq!(
        bench.poll_as(a, Some("i")).unwrap(),
        Told::default(),
        "it was slow, and is a member all the same"
    );
    bench.poll(b).unwrap();
    bench.now += POLL - Duration::from_millis(1);
    bench.poll(b).unwrap();
    bench.now += SESSION + Duration::from_millis(1);
    assert_eq!(bench.poll(b).unwrap().taken.len(), 2);
    assert_eq!(bench.poll_as(a, Some("i")), Err(Gone::Removed));
}

#[test]
fn n2_an_assignor_is_one_that_all_know_and_most_want() {
    let strategies = |names: &[AssignmentStrategy]| -> Arc<[Named]> {
        names.iter().map(|strategy| Named::new(Arc::new(*strategy))).collect()
    };
    use AssignmentStrategy::{Range, RoundRobin, Sticky};
    let mut bench = Bench::new();
    let with = |bench: &Bench, names: &[AssignmentStrategy]| Joining {
        assignors: strategies(names),
        ..bench.joining(&["t"], None)
    };
    bench.join_as(with(&bench, &[Range, RoundRobin])).unwrap();
    let second = bench.join_as(with(&bench, &[RoundRobin])).unwrap();
    assert_eq!(bench.plan().unwrap().assignor.name(), "roundrobin");
    bench.group.set_planning(false, bench.now, &mut Wakes::default());
    assert_eq!(bench.join_as(with(&bench, &[Sticky])), None);
    assert_eq!(bench.join_as(with(&bench, &[Range])), None, "the second does not know it");
    bench.leave(second);
    for names in [[RoundRobin, Range], [RoundRobin, Range]] {
        bench.join_as(with(&bench, &names)).unwrap();
    }
    assert_eq!(bench.plan().unwrap().assignor.name(), "roundrobin", "two votes against one");
}

#[test]
fn topics_that_come_grow_and_go_are_taken_up() {
    let mut bench = Bench::new();
    let a = bench.join(&["t", "u"]);
    assert_eq!(bench.poll(a).unwrap().taken, ALL, "a topic that is not there is waited for");
    let mut version = 0;
    let mut change = |bench: &mut Bench, topic, now: Option<(usize, u32)>| {
        version += 1;
        match now {
            Some(now) => bench.topics.insert(topic, now),
            None => bench.topics.remove(topic),
        };
        let topics = bench.topics.clone();
        bench.group.refresh(version, &|name| topics.get(name).copied());
    };
    change(&mut bench, "u", Some((1, 1)));
    assert_eq!(bench.poll(a).unwrap().taken, [("u", 0)]);
    change(&mut bench, "u", Some((1, 3)));
    assert_eq!(bench.poll(a).unwrap().taken, [("u", 1), ("u", 2)]);
    change(&mut bench, "t", None);
    assert_eq!(bench.poll(a).unwrap().back, ALL);
    change(&mut bench, "t", Some((2, 2)));
    assert_eq!(bench.poll(a).unwrap().taken, [("t", 0), ("t", 1)]);
    change(&mut bench, "u", Some((3, 3)));
    let told = bench.poll(a).unwrap();
    assert_eq!((told.back.len(), told.taken.len()), (3, 3), "made anew, it is another topic");
    let epoch = bench.group.epoch;
    change(&mut bench, "other", Some((4, 1)));
    assert_eq!(bench.group.epoch, epoch, "what nobody wants is no change");
}

#[test]
fn an_answer_that_can_not_be_followed_is_refused_and_says_why() {
    let mut bench = Bench::new();
    bench.topics.insert("u", (1, 1));
    let a = bench.join(&["t"]);
    bench.poll(a).unwrap();
    bench.join(&["u"]);
    let at = |topic, partition| PartitionIndex { topic, partition };
    let wrong: [(Vec<Vec<PartitionIndex>>, &str); 6] = [
        (vec![vec![]], "for 1 members, not 2"),
        (vec![vec![at(0, 4)], vec![]], "t-4, which does not exist"),
        (vec![vec![at(0, -1)], vec![]], "t--1, which does not exist"),
        (vec![vec![at(2, 0)], vec![]], "?-0, which does not exist"),
        (vec![vec![at(0, 0), at(0, 0)], vec![]], "t-0 away twice"),
        (vec![vec![at(1, 0)], vec![]], "u-0 to c-0, which does not want it"),
    ];
    for (answer, why) in wrong {
        let plan = bench.plan().unwrap();
        match bench.install(&plan, &answer) {
            Installed::Wrong(text) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.owned(a), ALL, "everyone keeps what they have");
    }
}

#[test]
fn an_answer_that_comes_too_late_is_asked_for_again() {
    let mut bench = Bench::new();
    let a = bench.join(&["t"]);
    let plan = bench.plan().unwrap();
    let answer = plan.assignor.assign(&plan.spec);
    let b = bench.join(&["t"]);
    assert_eq!(bench.beat(b), Ok(Step::Nothing), "somebody is at it");
    assert!(bench.plan().is_none());
    assert_eq!(bench.install(&plan, &answer), Installed::Late);
    assert!(bench.has_news(b), "one of them has to plan anew");
    bench.poll(b).unwrap();
    bench.poll(a).unwrap();
    assert_eq!(bench.owned(a).len() + bench.owned(b).len(), 4);
}

#[test]
fn commits_are_let_in_for_what_is_owned_and_nothing_else() {
    let mut bench = Bench::new();
    let (a, b) = (bench.join(&["t"]), bench.join(&["t"]));
    for no in [a, b, a] {
        bench.poll(no).unwrap();
    }
    let (mine, others) = (bench.owned(a), bench.owned(b));
    assert_eq!(bench.group.check_owner(a, None, mine.iter().copied()), Ok(None));
    let all = mine.iter().chain(&others).copied();
    assert_eq!(bench.group.check_owner(a, None, all), Ok(Some(others[0])));
    assert_eq!(bench.group.check_owner(a, None, [("other", 0)].into_iter()), Ok(Some(("other", 0))));
}

#[test]
fn a_group_is_written_down_as_kafka_does() {
    let mut bench = Bench::new();
    let a = bench.join_static("i");
    bench.poll_as(a, Some("i")).unwrap();
    let value = bench.group.value(5);
    assert_eq!(
        (value.protocol_type.as_str(), value.protocol.as_deref()),
        ("consumer", Some("cooperative-sticky"))
    );
    assert_eq!((value.generation, value.state_ms), (bench.group.epoch, 5));
    assert_eq!(value.leader.as_deref(), Some("c-0"));
    let member = &value.members[0];
    assert_eq!((member.rebalance_timeout_ms, member.session_timeout_ms), (100, 40));
    assert_eq!(member.instance_id.as_deref(), Some("i"));
    assert_eq!(member.assignment, codec::assignment([("t", vec![0, 1, 2, 3])].into_iter()));
    assert_eq!(codec::GroupValue::decode(&value.encode()), Ok(value));
    bench.now += POLL + SESSION;
    bench.beat_as(a, Some("i")).unwrap_err();
    let empty = bench.group.value(9);
    assert_eq!((empty.protocol, empty.leader, empty.members.len()), (None, None, 0));
}

#[cfg(feature = "testing")]
#[test]
fn who_holds_records_for_a_group_is_told_what_no_crash_takes_back() {
    let clock = crate::ManualClock::new(1);
    let options = crate::Store::options().maintenance(crate::Maintenance::Manual).clock(clock);
    let store = options.disk(&crate::storage::SimDisk::new(1)).open("/s").unwrap();
    let topic = store.create_topic("t", crate::TopicConfig::default()).unwrap();
    let records = (0..9).map(|_| crate::Record::to(&topic).value("v"));
    topic.partition(0).unwrap().append(records, None, crate::Acks::All).unwrap();
    let group = store.group("g");
    let positions = Positions(Arc::downgrade(&group.groups));
    let held = || crate::GroupPositions::position(&positions, "g", "t", 0).unwrap();
    assert_eq!(held(), None);
    group.commit_offsets([("t", 0, 3)]).unwrap();
    assert_eq!(held(), Some(3));
    let mut consumer = group.consumer().unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    consumer.commit_offsets_async([("t", 0, 5)]).unwrap();
    assert_eq!(held(), Some(3), "it is not synced yet");
    consumer.commit_offsets([("t", 0, 6)]).unwrap();
    assert_eq!(held(), Some(6));
}

#[test]
fn an_offset_of_a_topic_that_is_made_anew_in_the_middle_of_the_commit_is_not_the_new_ones() {
    let clock = Interrupted::default();
    let options = crate::Store::options().maintenance(crate::Maintenance::Manual).clock(clock.clone());
    let store = options.disk(&crate::storage::SimDisk::new(1)).open("/s").unwrap();
    let make = |name: &str, store: &crate::Store| {
        let topic = store.create_topic(name, crate::TopicConfig::default()).unwrap();
        let records = (0..9).map(|_| crate::Record::to(&topic).value("v"));
        topic.partition(0).unwrap().append(records, None, crate::Acks::All).unwrap();
    };
    ["t", "u"].into_iter().for_each(|name| make(name, &store));
    let group = store.group("g");
    group.commit_offsets([("u", 0, 1)]).unwrap();
    let of_clock = store.clone();
    // The first look is for the time of the commit, the second when the offsets were checked.
    clock.interrupt(2, move || {
        of_clock.delete_topic("t").unwrap();
        make("t", &of_clock);
    });
    let error = group.commit_offsets([("t", 0, 7), ("u", 0, 2)]).unwrap_err();
    assert!(clock.is_over());
    assert!(matches!(error.kind(), ErrorKind::TopicDeleted { .. }), "{error}");
    let told = group.committed().unwrap();
    let told: Vec<_> = told.iter().map(|(at, told)| (&*at.topic, told.offset)).collect();
    assert_eq!(told, [("u", 2)]);
}

#[test]
fn groups_that_nobody_has_in_hand_take_no_memory_for_ever() {
    let store = crate::Store::options().maintenance(crate::Maintenance::Manual);
    let store =
        store.clock(crate::ManualClock::new(1)).disk(&crate::storage::SimDisk::new(1)).open("/s").unwrap();
    store.create_topic("t", crate::TopicConfig::default()).unwrap();
    store.group("g").commit_offsets([("t", 0, 0)]).unwrap();
    (0..100).for_each(|n| drop(store.group(&format!("g{n}")).describe().unwrap()));
    let held = store.group("held").consumer().unwrap();
    let groups = store.group("g").groups;
    assert_eq!(groups.cells.lock().len(), 102);
    groups.tick().unwrap();
    assert_eq!(groups.cells.lock().keys().map(|id| &**id).collect::<Vec<_>>(), ["held"]);
    drop(held);
    groups.tick().unwrap();
    assert!(groups.cells.lock().is_empty());
    let told = store.group("g").committed().unwrap();
    assert_eq!(told.len(), 1);
}
