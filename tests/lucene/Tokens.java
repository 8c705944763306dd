// Runs a Lucene analyzer over texts: the oracle of the analysis tests.
//
//   java -cp JARS Tokens.java tokens ANALYZER   each input line is a text; each output line lists its tokens as
//                                               JSON: [[term, position, start, end], ...], offsets in code points
//   java -cp JARS Tokens.java assigned          a JSON list: the last code point of each run that is alternately
//                                               unassigned and assigned in this Java's Unicode, from unassigned on
//   java -cp JARS Tokens.java lowercase         a JSON list of [code point, lower case] where they differ
//
// Input lines are base64 of UTF-16BE, so that every Java string can be a text.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.core.KeywordAnalyzer;
import org.apache.lucene.analysis.core.SimpleAnalyzer;
import org.apache.lucene.analysis.core.WhitespaceAnalyzer;
import org.apache.lucene.analysis.en.EnglishAnalyzer;
import org.apache.lucene.analysis.standard.StandardAnalyzer;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.analysis.tokenattributes.OffsetAttribute;
import org.apache.lucene.analysis.tokenattributes.PositionIncrementAttribute;

public class Tokens {
  private static final PrintWriter out =
      new PrintWriter(new OutputStreamWriter(System.out, StandardCharsets.US_ASCII), false);

  public static void main(String[] args) throws Exception {
    switch (args[0]) {
      case "tokens" -> tokens(analyzer(args[1]));
      case "assigned" -> assigned();
      case "lowercase" -> lowercase();
      default -> throw new IllegalArgumentException(args[0]);
    }
    out.flush();
  }

  private static Analyzer analyzer(String name) {
    return switch (name) {
      case "standard" -> new StandardAnalyzer();
      case "simple" -> new SimpleAnalyzer();
      case "whitespace" -> new WhitespaceAnalyzer();
      case "keyword" -> new KeywordAnalyzer();
      case "english" -> new EnglishAnalyzer();
      default -> throw new IllegalArgumentException(name);
    };
  }

  private static void tokens(Analyzer analyzer) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String text = ByteBuffer.wrap(Base64.getDecoder().decode(line)).asCharBuffer().toString();
      StringBuilder json = new StringBuilder("[");
      try (TokenStream stream = analyzer.tokenStream("f", text)) {
        CharTermAttribute term = stream.addAttribute(CharTermAttribute.class);
        OffsetAttribute offset = stream.addAttribute(OffsetAttribute.class);
        PositionIncrementAttribute step = stream.addAttribute(PositionIncrementAttribute.class);
        int position = -1;
        int units = 0;
        int points = 0; // code points in the first `units` units
        stream.reset();
        while (stream.incrementToken()) {
          position += step.getPositionIncrement();
          points += text.codePointCount(units, offset.startOffset());
          units = offset.startOffset();
          int end = points + text.codePointCount(units, offset.endOffset());
          json.append(json.length() > 1 ? ",[" : "[");
          quote(json, term);
          json.append(',').append(position).append(',').append(points).append(',').append(end).append(']');
        }
        stream.end();
      }
      out.println(json.append(']'));
    }
  }

  private static void quote(StringBuilder json, CharSequence text) {
    json.append('"');
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      if (c < ' ' || c > '~' || c == '"' || c == '\\') {
        json.append(String.format("\\u%04x", (int) c));
      } else {
        json.append(c);
      }
    }
    json.append('"');
  }

  private static void assigned() {
    StringBuilder json = new StringBuilder("[");
    boolean current = false;
    for (int c = 0; c <= Character.MAX_CODE_POINT; c++) {
      if ((Character.getType(c) != Character.UNASSIGNED) != current) {
        json.append(json.length() > 1 ? "," : "").append(c - 1);
        current = !current;
      }
    }
    out.println(json.append(']'));
  }

  private static void lowercase() {
    StringBuilder json = new StringBuilder("[");
    for (int c = 0; c <= Character.MAX_CODE_POINT; c++) {
      if (Character.toLowerCase(c) != c) {
        json.append(json.length() > 1 ? ",[" : "[").append(c).append(',').append(Character.toLowerCase(c));
        json.append(']');
      }
    }
    out.println(json.append(']'));
  }
}
