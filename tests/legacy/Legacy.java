import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.header.Header;
import java.nio.*;
import java.nio.file.*;
import java.util.*;

/** Writes segments of formats 0 and 1 with Kafka's own builder, and what Kafka reads in them. */
public class Legacy {
    public static void main(String[] args) throws Exception {
        Path out = Paths.get(args[0]);
        Files.createDirectories(out);
        byte[] magics = {0, 1};
        for (byte magic : magics) {
            for (String codec : new String[]{"none", "gzip", "snappy", "lz4"}) {
                for (TimestampType type : magic == 0 ? new TimestampType[]{TimestampType.CREATE_TIME} : new TimestampType[]{TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME}) {
                    ByteBuffer all = ByteBuffer.allocate(1 << 20);
                    long base = 100;
                    for (int set = 0; set < 3; set++) {
                        ByteBuffer buffer = ByteBuffer.allocate(1 << 18);
                        Compression c = switch (codec) {
                            case "gzip" -> Compression.gzip().build();
                            case "snappy" -> Compression.snappy().build();
                            case "lz4" -> Compression.lz4().build();
                            default -> Compression.NONE;
                        };
                        MemoryRecordsBuilder b = MemoryRecords.builder(buffer, magic, c, type, base, 1_700_000_000_500L + set);
                        for (int i = 0; i < 4; i++) {
                            byte[] key = i == 1 ? null : ("k" + i).getBytes();
                            byte[] value = i == 2 ? null : i == 3 ? new byte[0] : ("value " + set + "." + i + " " + "x".repeat(40)).getBytes();
                            // Offsets with a gap in the second set, as compaction leaves them; times not in order.
                            long offset = base + (set == 1 ? 2 * i : i);
                            b.appendWithOffset(offset, magic == 0 ? -1L : 1_700_000_000_000L + 10 * set + (i == 2 ? 9 : i), key, value);
                        }
                        MemoryRecords r = b.build();
                        all.put(r.buffer());
                        base += set == 1 ? 7 : 4;
                    }
                    all.flip();
                    byte[] bytes = new byte[all.remaining()];
                    all.get(bytes);
                    String name = "v" + magic + "-" + codec + (type == TimestampType.LOG_APPEND_TIME ? "-append" : "");
                    Files.write(out.resolve(name + ".log"), bytes);
                    StringBuilder text = new StringBuilder();
                    for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
                        batch.ensureValid();
                        text.append("batch " + batch.baseOffset() + " " + batch.lastOffset() + " " + batch.maxTimestamp() + " " + batch.sizeInBytes() + "\n");
                        for (org.apache.kafka.common.record.Record rec : batch) {
                            rec.ensureValid();
                            text.append(rec.offset() + " " + rec.timestamp() + " " + hex(rec.key()) + " " + hex(rec.value()) + "\n");
                        }
                    }
                    Files.writeString(out.resolve(name + ".txt"), text.toString());
                }
            }
        }
    }
    static String hex(ByteBuffer b) {
        if (b == null) return "null";
        StringBuilder s = new StringBuilder("\"");
        b = b.duplicate();
        while (b.hasRemaining()) s.append((char) b.get());
        return s.append('"').toString();
    }
}
