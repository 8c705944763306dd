import org.apache.lucene.search.TopDocs;

/** Lucene 10: the total is a record's component. */
final class Totals {
  static long of(TopDocs found) {
    return found.totalHits.value();
  }

  private Totals() {}
}
