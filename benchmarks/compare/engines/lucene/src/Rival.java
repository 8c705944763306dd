import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.apache.lucene.analysis.CharArraySet;
import org.apache.lucene.analysis.standard.StandardAnalyzer;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field.Store;
import org.apache.lucene.document.StringField;
import org.apache.lucene.document.TextField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.NoMergePolicy;
import org.apache.lucene.index.SerialMergeScheduler;
import org.apache.lucene.index.StoredFields;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.TieredMergePolicy;
import org.apache.lucene.search.BooleanClause.Occur;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.PhraseQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.TopDocs;
import org.apache.lucene.search.TopScoreDocCollectorManager;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.store.MMapDirectory;
import org.apache.lucene.util.Version;

/**
 * Lucene for the comparison. Requests come as lines of words between tabs, replies are one line each; the Python side,
 * benchmarks/compare/outside.py, says what they mean. Times are taken here, around making a query of its words and
 * running it.
 */
public final class Rival {
  private static final String ID = "id";
  private static final String TEXT = "text";

  private record Question(String kind, String[] terms) {}

  private record Pending(String id, String text) {}

  /** What a command found; count is -1 where it was not asked to count. */
  private record Found(long count, ScoreDoc[] top) {}

  private record Command(int k, boolean counts, boolean fetches) {
    /** TOP_10, COUNT, TOP_10_COUNT or FETCH_10. */
    static Command parse(String name) {
      String digits = name.replaceAll("[^0-9]", "");
      int k = digits.isEmpty() ? 0 : Integer.parseInt(digits);
      return new Command(k, name.endsWith("COUNT"), name.startsWith("FETCH"));
    }
  }

  private final Path path;
  private final List<Question> questions = new ArrayList<>();
  private List<Pending> pending = new ArrayList<>();
  private FSDirectory directory;
  private IndexWriter writer;
  private DirectoryReader reader;
  private IndexSearcher searcher;

  /** Results are left here, so that no compiler can leave out the work. */
  private static volatile Object sink;

  private Rival(Path path) {
    this.path = path;
  }

  public static void main(String[] arguments) throws IOException {
    Rival rival = new Rival(Path.of(arguments[0]));
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String reply;
      try {
        reply = rival.obey(line.split("\t", -1));
      } catch (IOException | RuntimeException failure) {
        reply = "error\t" + failure.toString().replace('\n', ' ');
      }
      if (reply != null) {
        out.println(reply);
        out.flush();
      }
    }
  }

  private String obey(String[] words) throws IOException {
    switch (words[0]) {
      case "version" -> {
        return Version.LATEST + " on Java " + Runtime.version();
      }
      case "document" -> {
        pending.add(new Pending(words[1], unescape(words[2])));
        return null;
      }
      case "question" -> {
        questions.add(new Question(words[1], Arrays.copyOfRange(words, 2, words.length)));
        return null;
      }
      case "create" -> create();
      case "add" -> add();
      case "delete" -> delete(Arrays.copyOfRange(words, 1, words.length));
      case "merge" -> merge();
      case "close" -> close();
      case "open" -> open();
      case "segments" -> {
        return String.valueOf(reader.leaves().size());
      }
      case "answer" -> {
        return answer(Command.parse(words[1]), questions.get(Integer.parseInt(words[2])));
      }
      case "measure" -> {
        return measure(Command.parse(words[1]), words[2].split(" "));
      }
      default -> throw new IllegalArgumentException("no such request: " + String.join(" ", words));
    }
    return "done";
  }

  private void create() throws IOException {
    directory = new MMapDirectory(path);
    IndexWriterConfig config = new IndexWriterConfig(new StandardAnalyzer(CharArraySet.EMPTY_SET));
    config.setOpenMode(IndexWriterConfig.OpenMode.CREATE);
    config.setRAMBufferSizeMB(1900);
    config.setUseCompoundFile(false);
    config.setMergePolicy(NoMergePolicy.INSTANCE);
    config.setMergeScheduler(new SerialMergeScheduler());
    writer = new IndexWriter(directory, config);
  }

  /** Index what is pending; on return it is durable. */
  private void add() throws IOException {
    for (Pending each : pending) {
      Document document = new Document();
      document.add(new StringField(ID, each.id(), Store.YES));
      document.add(new TextField(TEXT, each.text(), Store.YES));
      writer.addDocument(document);
    }
    pending = new ArrayList<>();
    writer.commit();
  }

  private void delete(String[] ids) throws IOException {
    for (String id : ids) {
      writer.deleteDocuments(new Term(ID, id));
    }
    writer.commit();
  }

  private void merge() throws IOException {
    TieredMergePolicy policy = new TieredMergePolicy();
    policy.setNoCFSRatio(0);
    writer.getConfig().setMergePolicy(policy);
    writer.forceMerge(1);
    writer.commit();
    writer.getConfig().setMergePolicy(NoMergePolicy.INSTANCE);
  }

  private void close() throws IOException {
    writer.close();
    directory.close();
  }

  private void open() throws IOException {
    directory = new MMapDirectory(path);
    reader = DirectoryReader.open(directory);
    searcher = new IndexSearcher(reader);
    searcher.setQueryCache(null);
  }

  private String answer(Command command, Question question) throws IOException {
    Found found = run(command, question);
    String scores = Arrays.stream(found.top()).map(hit -> Float.toString(hit.score)).collect(Collectors.joining(" "));
    return (found.count() < 0 ? "-" : String.valueOf(found.count())) + "\t" + scores;
  }

  private String measure(Command command, String[] numbers) throws IOException {
    long[] times = new long[numbers.length];
    for (int at = 0; at < numbers.length; at++) {
      Question question = questions.get(Integer.parseInt(numbers[at]));
      long started = System.nanoTime();
      sink = run(command, question);
      times[at] = System.nanoTime() - started;
    }
    return Arrays.stream(times).mapToObj(Long::toString).collect(Collectors.joining(" "));
  }

  private Found run(Command command, Question question) throws IOException {
    Query query = query(question);
    if (command.k() == 0) {
      return new Found(searcher.count(query), new ScoreDoc[0]);
    }
    int threshold = command.counts() ? Integer.MAX_VALUE : 1;
    TopDocs found = searcher.search(query, new TopScoreDocCollectorManager(command.k(), threshold));
    if (command.fetches()) {
      StoredFields stored = searcher.storedFields();
      for (ScoreDoc hit : found.scoreDocs) {
        Document document = stored.document(hit.doc);
        sink = document.get(ID);
        sink = document.get(TEXT);
      }
    }
    return new Found(command.counts() ? Totals.of(found) : -1, found.scoreDocs);
  }

  private static Query query(Question question) {
    switch (question.kind()) {
      case "term" -> {
        return new TermQuery(new Term(TEXT, question.terms()[0]));
      }
      case "phrase" -> {
        return new PhraseQuery(TEXT, question.terms());
      }
      default -> {
        Occur occur = question.kind().equals("intersection") ? Occur.MUST : Occur.SHOULD;
        BooleanQuery.Builder builder = new BooleanQuery.Builder();
        for (String term : question.terms()) {
          builder.add(new TermQuery(new Term(TEXT, term)), occur);
        }
        return builder.build();
      }
    }
  }

  /** \t, \n and \\ stand for a tab, a line feed and a backslash. */
  private static String unescape(String text) {
    if (text.indexOf('\\') < 0) {
      return text;
    }
    StringBuilder plain = new StringBuilder(text.length());
    for (int at = 0; at < text.length(); at++) {
      char letter = text.charAt(at);
      if (letter == '\\') {
        letter = text.charAt(++at);
        letter = letter == 't' ? '\t' : letter == 'n' ? '\n' : letter;
      }
      plain.append(letter);
    }
    return plain.toString();
  }
}
