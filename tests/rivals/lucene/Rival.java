import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.core.WhitespaceTokenizer;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.StringField;
import org.apache.lucene.document.TextField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.NoMergePolicy;
import org.apache.lucene.index.Term;
import org.apache.lucene.search.BooleanClause.Occur;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.BoostQuery;
import org.apache.lucene.search.ConstantScoreQuery;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.MatchAllDocsQuery;
import org.apache.lucene.search.MatchNoDocsQuery;
import org.apache.lucene.search.PhraseQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.TopScoreDocCollectorManager;
import org.apache.lucene.store.ByteBuffersDirectory;
import org.apache.lucene.store.Directory;
import org.apache.lucene.util.BytesRef;

/**
 * Answers search cases with Lucene: one JSON object a line in, one out.
 *
 * <pre>
 * {"segments": [[{"body": ["a b", "c"], "tags": ["x"]}, ...], ...],   one Lucene segment each
 *  "deleted": [2, 5],                                  documents, counted through all segments
 *  "queries": [{"match": {"body": "a b"}}, ...], "size": 100}
 * -> {"answers": [{"count": 3, "ids": [0, 4, 1], "bits": [1065353216, ...]}, ...]}
 * </pre>
 *
 * "body" is split at white space, with the position gap of OpenSearch between values; every other field is a
 * keyword. Queries become what OpenSearch makes of them. Scores travel as the bits of the float.
 */
public final class Rival {
  private static final String NUMBER = "#";
  private static final Gson GSON = new Gson();

  public static void main(String[] args) throws IOException {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
    PrintStream out = new PrintStream(System.out, true, "UTF-8");
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      out.println(GSON.toJson(answer(JsonParser.parseString(line).getAsJsonObject())));
    }
  }

  private static Map<String, Object> answer(JsonObject request) throws IOException {
    try (Directory directory = new ByteBuffersDirectory()) {
      write(directory, request);
      try (DirectoryReader reader = DirectoryReader.open(directory)) {
        IndexSearcher searcher = new IndexSearcher(reader);
        searcher.setQueryCache(null);
        List<Object> answers = new ArrayList<>();
        for (JsonElement query : request.getAsJsonArray("queries")) {
          answers.add(search(searcher, parse(query.getAsJsonObject()), request.get("size").getAsInt()));
        }
        return Map.of("answers", answers);
      }
    }
  }

  private static void write(Directory directory, JsonObject request) throws IOException {
    IndexWriterConfig config = new IndexWriterConfig(new Words()).setMergePolicy(NoMergePolicy.INSTANCE);
    try (IndexWriter writer = new IndexWriter(directory, config)) {
      int number = 0;
      for (JsonElement segment : request.getAsJsonArray("segments")) {
        for (JsonElement doc : segment.getAsJsonArray()) {
          Document document = new Document();
          document.add(new StringField(NUMBER, Integer.toString(number++), Field.Store.YES));
          for (Map.Entry<String, JsonElement> field : doc.getAsJsonObject().entrySet()) {
            for (JsonElement value : field.getValue().getAsJsonArray()) {
              document.add(
                  field.getKey().equals("body")
                      ? new TextField("body", value.getAsString(), Field.Store.NO)
                      : new StringField(field.getKey(), value.getAsString(), Field.Store.NO));
            }
          }
          writer.addDocument(document);
        }
        writer.commit();
      }
      for (JsonElement deleted : request.getAsJsonArray("deleted")) {
        writer.deleteDocuments(new Term(NUMBER, Integer.toString(deleted.getAsInt())));
      }
      writer.commit();
    }
  }

  private static Map<String, Object> search(IndexSearcher searcher, Query query, int size)
      throws IOException {
    ScoreDoc[] hits =
        searcher.search(query, new TopScoreDocCollectorManager(size, null, Integer.MAX_VALUE)).scoreDocs;
    ScoreDoc[] pruned = searcher.search(query, new TopScoreDocCollectorManager(10, null, 1)).scoreDocs;
    for (int i = 0; i < Math.min(pruned.length, hits.length); i++) {
      if (pruned[i].doc != hits[i].doc || pruned[i].score != hits[i].score) {
        throw new AssertionError("Lucene's own pruned search differs from its exhaustive one: " + query);
      }
    }
    List<Integer> ids = new ArrayList<>();
    List<Integer> bits = new ArrayList<>();
    Set<String> only = new HashSet<>(Set.of(NUMBER));
    for (ScoreDoc hit : hits) {
      ids.add(Integer.parseInt(searcher.storedFields().document(hit.doc, only).get(NUMBER)));
      bits.add(Float.floatToIntBits(hit.score));
    }
    return Map.of("count", searcher.count(query), "ids", ids, "bits", bits);
  }

  private static Query parse(JsonObject query) {
    Map.Entry<String, JsonElement> only = query.entrySet().iterator().next();
    JsonObject spec = only.getValue().getAsJsonObject();
    switch (only.getKey()) {
      case "match_all":
        return boosted(new MatchAllDocsQuery(), spec);
      case "term":
        return boosted(new TermQuery(term(spec, options(spec).get("value").getAsString())), options(spec));
      case "match":
        return boosted(match(spec), options(spec));
      case "match_phrase":
        return boosted(phrase(spec), options(spec));
      case "constant_score":
        return boosted(new ConstantScoreQuery(parse(spec.getAsJsonObject("filter"))), spec);
      case "bool":
        return boosted(bool(spec), spec);
      default:
        throw new IllegalArgumentException(only.getKey());
    }
  }

  /** The options of {"field": {...}}; the cases use the long form only. */
  private static JsonObject options(JsonObject spec) {
    return spec.entrySet().iterator().next().getValue().getAsJsonObject();
  }

  private static Term term(JsonObject spec, String text) {
    return new Term(spec.keySet().iterator().next(), new BytesRef(text));
  }

  private static Query boosted(Query query, JsonObject options) {
    return options.has("boost") ? new BoostQuery(query, options.get("boost").getAsFloat()) : query;
  }

  private static String[] words(JsonObject spec) {
    String text = options(spec).get("query").getAsString().trim();
    return text.isEmpty() ? new String[0] : text.split(" +");
  }

  private static Query match(JsonObject spec) {
    String[] words = words(spec);
    if (words.length == 0) {
      return new MatchNoDocsQuery();
    }
    if (words.length == 1) {
      return new TermQuery(term(spec, words[0]));
    }
    boolean and = options(spec).has("operator") && options(spec).get("operator").getAsString().equals("and");
    BooleanQuery.Builder builder = new BooleanQuery.Builder();
    for (String word : words) {
      builder.add(new TermQuery(term(spec, word)), and ? Occur.MUST : Occur.SHOULD);
    }
    return withMinimum(builder, options(spec), and ? 0 : words.length);
  }

  private static Query phrase(JsonObject spec) {
    PhraseQuery.Builder builder = new PhraseQuery.Builder();
    for (String word : words(spec)) {
      builder.add(term(spec, word));
    }
    return builder.setSlop(options(spec).has("slop") ? options(spec).get("slop").getAsInt() : 0).build();
  }

  private static Query bool(JsonObject spec) {
    BooleanQuery.Builder builder = new BooleanQuery.Builder();
    int shoulds = 0;
    int others = 0;
    for (Map.Entry<String, Occur> occur :
        Map.of("must", Occur.MUST, "should", Occur.SHOULD, "must_not", Occur.MUST_NOT, "filter", Occur.FILTER)
            .entrySet()) {
      JsonArray clauses = spec.has(occur.getKey()) ? spec.getAsJsonArray(occur.getKey()) : new JsonArray();
      for (JsonElement clause : clauses) {
        builder.add(parse(clause.getAsJsonObject()), occur.getValue());
      }
      shoulds += occur.getValue() == Occur.SHOULD ? clauses.size() : 0;
      others += occur.getValue() == Occur.MUST_NOT ? 0 : clauses.size();
    }
    if (others == 0) { // nothing, or only must_not: OpenSearch adds everything, which scores 1, or 0
      boolean empty = builder.build().clauses().isEmpty();
      return empty ? new MatchAllDocsQuery() : builder.add(new MatchAllDocsQuery(), Occur.FILTER).build();
    }
    return withMinimum(builder, spec, shoulds);
  }

  private static Query withMinimum(BooleanQuery.Builder builder, JsonObject options, int shoulds) {
    if (options.has("minimum_should_match")) {
      int minimum = options.get("minimum_should_match").getAsInt();
      builder.setMinimumNumberShouldMatch(Math.max(0, minimum < 0 ? shoulds + minimum : minimum));
    }
    return builder.build();
  }

  /** Splits at white space; the next value of a field begins 100 positions later. */
  private static final class Words extends Analyzer {
    @Override
    protected TokenStreamComponents createComponents(String field) {
      return new TokenStreamComponents(new WhitespaceTokenizer());
    }

    @Override
    public int getPositionIncrementGap(String field) {
      return 100;
    }
  }
}
