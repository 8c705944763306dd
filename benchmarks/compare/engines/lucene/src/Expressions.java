import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.text.ParseException;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.DoubleDocValuesField;
import org.apache.lucene.document.NumericDocValuesField;
import org.apache.lucene.expressions.SimpleBindings;
import org.apache.lucene.expressions.js.JavascriptCompiler;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.queries.function.FunctionScoreQuery;
import org.apache.lucene.search.DoubleValuesSource;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.MatchAllDocsQuery;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.store.FSDirectory;

/**
 * A Lucene expression over all documents, for benchmarks/engine/bench_scoring.py. Arguments: a directory for the index,
 * the expression, rounds. Each line of the input is a document: price, a tab, year. Prints one line a round, its ms, and
 * then the scores of the ten best.
 */
public final class Expressions {
  private Expressions() {}

  public static void main(String[] arguments) throws IOException, ParseException {
    try (FSDirectory directory = FSDirectory.open(Path.of(arguments[0]))) {
      try (IndexWriter writer = new IndexWriter(directory, new IndexWriterConfig());
          BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
        for (String line = in.readLine(); line != null; line = in.readLine()) {
          int tab = line.indexOf('\t');
          Document document = new Document();
          document.add(new DoubleDocValuesField("price", Double.parseDouble(line.substring(0, tab))));
          document.add(new NumericDocValuesField("year", Long.parseLong(line.substring(tab + 1))));
          writer.addDocument(document);
        }
        writer.forceMerge(1);
      }
      try (DirectoryReader reader = DirectoryReader.open(directory)) {
        search(new IndexSearcher(reader), arguments[1], Integer.parseInt(arguments[2]));
      }
    }
  }

  private static void search(IndexSearcher searcher, String expression, int rounds) throws IOException, ParseException {
    SimpleBindings bindings = new SimpleBindings();
    bindings.add("_score", DoubleValuesSource.SCORES);
    bindings.add("price", DoubleValuesSource.fromDoubleField("price"));
    bindings.add("year", DoubleValuesSource.fromLongField("year"));
    DoubleValuesSource source = JavascriptCompiler.compile(expression).getDoubleValuesSource(bindings);
    FunctionScoreQuery query = new FunctionScoreQuery(new MatchAllDocsQuery(), source);
    searcher.setQueryCache(null);
    ScoreDoc[] best = {};
    long end = System.nanoTime() + 5_000_000_000L; // the compiler of Java has seen it all by then
    while (System.nanoTime() < end) {
      best = searcher.search(query, 10).scoreDocs;
    }
    for (int round = 0; round < rounds; round++) {
      long started = System.nanoTime();
      best = searcher.search(query, 10).scoreDocs;
      System.out.println((System.nanoTime() - started) / 1e6);
    }
    for (ScoreDoc hit : best) {
      System.out.println(hit.score);
    }
  }
}
