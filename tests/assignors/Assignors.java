import java.nio.ByteBuffer;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.*;
import org.apache.kafka.common.*;

/** Reads groups from standard input, and says what Kafka's own assignors make of them; tests/assignors.rs calls it. */
public class Assignors {
    record Member(String instance, List<String> topics, List<TopicPartition> owned, int generation) {}

    public static void main(String[] args) throws Exception {
        var in = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        var out = new StringBuilder();
        var topics = new TreeMap<String, Integer>();
        var members = new TreeMap<String, Member>();
        for (String line; (line = in.readLine()) != null; ) {
            // group | topic NAME PARTITIONS | member ID INSTANCE|- GENERATION TOPIC,… OWNED:P,… | end
            String[] words = line.split(" ", -1);
            switch (words[0]) {
                case "group" -> { topics.clear(); members.clear(); out.append(line).append('\n'); }
                case "topic" -> topics.put(words[1], Integer.parseInt(words[2]));
                case "member" -> members.put(words[1], new Member(
                    words[2].equals("-") ? null : words[2], split(words[4]), partitions(words[5]), Integer.parseInt(words[3])));
                case "end" -> {
                    answer(out, new RangeAssignor(), topics, members);
                    answer(out, new RoundRobinAssignor(), topics, members);
                    answer(out, new StickyAssignor(), topics, members);
                    answer(out, new CooperativeStickyAssignor(), topics, members);
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
        System.out.print(out);
    }

    static void answer(StringBuilder out, ConsumerPartitionAssignor assignor, Map<String, Integer> topics, Map<String, Member> members) {
        var nodes = List.of(new Node(0, "localhost", 9092));
        var infos = new ArrayList<PartitionInfo>();
        topics.forEach((name, count) -> {
            for (int p = 0; p < count; p++) infos.add(new PartitionInfo(name, p, nodes.get(0), new Node[0], new Node[0]));
        });
        var cluster = new Cluster("c", nodes, infos, Set.of(), Set.of());
        var subscriptions = new HashMap<String, Subscription>();
        members.forEach((id, member) -> {
            ByteBuffer userData = null;
            if (assignor instanceof StickyAssignor && member.generation() >= 0) {
                // As a member of that name would have made it after its last assignment.
                var own = new StickyAssignor();
                own.onAssignment(new Assignment(member.owned()), new ConsumerGroupMetadata("g", member.generation(), id, Optional.empty()));
                userData = own.subscriptionUserData(Set.copyOf(member.topics()));
            }
            var subscription = new Subscription(member.topics(), userData, member.owned(), member.generation(), Optional.empty());
            subscription.setGroupInstanceId(Optional.ofNullable(member.instance()));
            subscriptions.put(id, subscription);
        });
        var assignment = assignor.assign(cluster, new GroupSubscription(subscriptions)).groupAssignment();
        for (String id : members.keySet()) {
            out.append(assignor.name()).append(' ').append(id);
            assignment.get(id).partitions().stream()
                .sorted(Comparator.comparing(TopicPartition::topic).thenComparing(TopicPartition::partition))
                .forEach(p -> out.append(' ').append(p.topic()).append(':').append(p.partition()));
            out.append('\n');
        }
    }

    static List<String> split(String words) {
        return words.isEmpty() ? List.of() : List.of(words.split(","));
    }

    static List<TopicPartition> partitions(String words) {
        return split(words).stream().map(w -> w.split(":")).map(w -> new TopicPartition(w[0], Integer.parseInt(w[1]))).toList();
    }
}
